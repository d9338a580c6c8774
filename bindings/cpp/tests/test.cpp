// The C++ binding on a registry of its own. Owns: what each test promises, by its name. test DATA SCRATCH
//
// DATA is tests/data of the project, SCRATCH an empty folder.

#include "check.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <thread>
#if defined(__cpp_lib_span)
#include <span>
#endif

using namespace securereg;

namespace {

std::string data, scratch;

std::string slurp(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

bool same(Bytes bytes, const std::string& text) {
    return bytes.size() == text.size() && (text.empty() || std::memcmp(bytes.data(), text.data(), text.size()) == 0);
}

bool same(const std::vector<std::byte>& bytes, std::string_view text) {
    return same(Bytes(bytes.data(), bytes.size()), std::string(text));
}

std::string tiny_path() { return data + "/tiny-llama.gguf"; }

/// A registry in a folder of its own.
Registry fresh(const std::string& name) { return Registry::open(scratch + "/" + name, Mode::create); }

/// Changes one byte of a stored file behind the library's back.
void damage(const std::string& root, std::string_view sha256, std::streamoff at) {
    const std::string path = root + "/blobs/sha256/" + std::string(sha256);
    CHECK(::chmod(path.c_str(), 0600) == 0);
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(at);
    const int was = file.get();
    file.seekp(at);
    file.put(static_cast<char>(was ^ 1));
    file.close();
    CHECK(file.good());
    CHECK(::chmod(path.c_str(), 0444) == 0);
}

void words_and_versions() {
    CHECK(std::string(to_string(Status::not_found)) == "not_found");
    CHECK(std::string(to_string(static_cast<Status>(12345))) == "unknown");
    CHECK(std::string(version()) == SECUREREG_VERSION);
}

void a_model_says_what_was_promoted() {
    const Registry registry = fresh("promote");
    PromoteOptions options;
    options.source = "https://example.org/tiny";
    options.format = "gguf";
    options.evidence = R"({"scanner": "none"})";
    options.size_bytes = slurp(tiny_path()).size();
    std::uint64_t most = 0;
    const auto before = registry.generation();
    const Progress watching = [&](Phase, std::uint64_t done, std::uint64_t total) {
        CHECK(done <= total);
        most = std::max(most, done);
        return true;
    };
    const Promotion first = registry.promote(tiny_path(), "tiny", options, watching);
    CHECK(most == options.size_bytes);
    CHECK(registry.generation() > before);
    CHECK(first.outcome == Outcome::promoted);
    CHECK(first.model.name() == "tiny" && first.model.format() == "gguf" && first.model.layout() == "file");
    CHECK(first.model.source() == "https://example.org/tiny");
    CHECK(first.model.size_bytes() == options.size_bytes && first.model.file_count() == 1);
    CHECK(first.model.sha256().size() == 64 && first.model.promoted_at().back() == 'Z');
    CHECK(first.model.is_served() && !first.model.quarantine());
    const auto files = first.model.files();
    CHECK(files.size() == 1 && files[0].path == "tiny-llama.gguf" && files[0].sha256 == first.model.sha256());
    CHECK(files[0].blake3.size() == 64 && files[0].size_bytes == options.size_bytes);
    CHECK_STATUS(not_found, first.model.file(1));

    CHECK(registry.promote(tiny_path(), "tiny").outcome == Outcome::already_there);
    CHECK_STATUS(conflict, registry.promote(tiny_path(), "again"));  // the same path in the mount
    PromoteOptions named;
    named.filename = "again.gguf";
    const Promotion shared = registry.promote(tiny_path(), "again", named);
    CHECK(shared.outcome == Outcome::promoted && shared.method == Method::shared);
    CHECK(registry.describe("tiny").find("\"scanner\"") != std::string::npos);
    const auto models = registry.models();
    CHECK(models.size() == 2 && models[0].name() == "again" && models[1].name() == "tiny");
    CHECK(registry.lookup("again").size_bytes() == options.size_bytes);
    CHECK_STATUS(not_mounted, registry.mount_path("tiny"));

    const std::string moved = scratch + "/moved.gguf";
    std::ofstream(moved, std::ios::binary) << slurp(data + "/gguf/d-single.gguf");
    PromoteOptions away;
    away.move = true;
    away.filename = "other.gguf";
    const Promotion given = registry.promote(moved, "given", away);
    CHECK(given.model.file(0).path == "other.gguf" && ::access(moved.c_str(), F_OK) != 0);
    registry.remove("again");
    CHECK_STATUS(not_found, registry.lookup("again"));
    CHECK(registry.models().size() == 2);
}

void errors_say_what_on_which_model_and_both_digests() {
    const Registry registry = fresh("errors");
    PromoteOptions claim;
    claim.sha256 = std::string(64, '0');
    const Error wrong = thrown_by([&] { return registry.promote(tiny_path(), "tiny", claim); });
    CHECK(wrong.status() == Status::digest_mismatch);
    CHECK(wrong.expected() == *claim.sha256 && wrong.actual().size() == 64 && wrong.actual() != wrong.expected());
    CHECK(wrong.what()[0] != '\0');
    const Error copy = wrong;
    Error moved(std::move(const_cast<Error&>(copy)));
    moved = wrong;
    CHECK(copy.expected() == wrong.expected() && moved.status() == wrong.status());

    CHECK_STATUS(not_found, Registry::open(scratch + "/none"));
    CHECK_STATUS(not_found, registry.open_file("none"));
    CHECK_STATUS(invalid_input, registry.lookup("../etc"));
    CHECK_STATUS(refused, registry.promote(data + "/hostile/g05_ver4.gguf", "hostile"));
    CHECK_STATUS(not_found, registry.promote(scratch + "/no.gguf", "none"));
    CHECK_STATUS(not_found, registry.integrity());
    registry.promote(tiny_path(), "tiny");
    CHECK_STATUS(conflict, registry.promote(data + "/gguf/d-single.gguf", "tiny"));
    CHECK(thrown_by([&] { return registry.open_file("tiny", "no"); }).model() == "tiny");
    const Registry reader = Registry::open(scratch + "/errors");
    CHECK_STATUS(permission, reader.remove("tiny"));
}

void a_nul_in_a_string_is_refused_and_nothing_is_cut_off() {
    using namespace std::string_view_literals;
    const Registry registry = fresh("nul");
    registry.promote(tiny_path(), "tiny");
    constexpr auto cut = "tiny\0more"sv;
    CHECK_STATUS(invalid_input, Registry::open("/tmp\0x"sv));
    CHECK_STATUS(invalid_input, registry.lookup(cut));
    CHECK_STATUS(invalid_input, registry.describe(cut));
    CHECK_STATUS(invalid_input, registry.mount_path(cut));
    CHECK_STATUS(invalid_input, registry.promote(tiny_path() + '\0', "other"));
    CHECK_STATUS(invalid_input, registry.promote(tiny_path(), cut));
    CHECK_STATUS(invalid_input, registry.verify(cut));
    CHECK_STATUS(invalid_input, registry.quarantine(cut, "r"));
    CHECK_STATUS(invalid_input, registry.quarantine("tiny", "r\0"sv));
    CHECK_STATUS(invalid_input, registry.quarantine("tiny", "r", "i\0"sv));
    CHECK_STATUS(invalid_input, registry.release(cut, "r"));
    CHECK_STATUS(invalid_input, registry.release("tiny", "r\0"sv));
    CHECK_STATUS(invalid_input, registry.remove(cut));
    CHECK_STATUS(invalid_input, registry.open_file(cut));
    CHECK_STATUS(invalid_input, registry.open_file("tiny", "tiny-llama.gguf\0"sv));
    CHECK_STATUS(invalid_input, registry.open_sealed(cut));
    CHECK_STATUS(invalid_input, registry.open_sealed("tiny", "\0"sv));
    CHECK_STATUS(invalid_input, registry.open_gguf(cut));
    CHECK_STATUS(invalid_input, registry.open_gguf("tiny", "\0"sv));
    for (auto member : {&PromoteOptions::sha256, &PromoteOptions::format, &PromoteOptions::filename,
                        &PromoteOptions::source, &PromoteOptions::evidence}) {
        PromoteOptions options;
        options.*member = std::string("x\0y", 3);
        CHECK_STATUS(invalid_input, registry.promote(tiny_path(), "other", options));
    }
    CHECK(registry.models().size() == 1 && registry.lookup("tiny").is_served());
}

void reads_give_what_was_promoted_up_to_the_end() {
    const std::string all = slurp(tiny_path());
    Registry registry = fresh("read");
    registry.promote(tiny_path(), "tiny");
    const File file = registry.open_file("tiny");
    registry.close();
    CHECK(!registry && file);  // a file outlives its registry
    CHECK(file.size() == all.size());
    CHECK(same(file.read(0, all.size() + 1000), all));
    constexpr std::uint64_t group = 65536;
    for (const std::uint64_t at : {std::uint64_t{0}, std::uint64_t{1}, group - 1, group, group + 1, all.size() - 1})
        for (const std::size_t len : {std::size_t{0}, std::size_t{1}, std::size_t{group}, std::size_t{group + 1}})
            CHECK(same(file.read(at, len), std::string_view(all).substr(static_cast<std::size_t>(at), len)));
    CHECK(file.read(all.size(), 10).empty() && file.read(~std::uint64_t{0}, ~std::size_t{0}).empty());
    std::vector<std::byte> buffer(100);
    CHECK(file.read_at(buffer, 7) == 100 && same(buffer, std::string_view(all).substr(7, 100)));
    char few[3];
    CHECK(file.read_at(few, all.size() - 2) == 2 && few[1] == all.back());
    CHECK(file.read_at(nullptr, 0, 0) == 0);
    CHECK_STATUS(invalid_input, file.read_at(few, ~std::size_t{0}, 0));
    CHECK_STATUS(null, file.read_at(nullptr, 1, 0));
#if defined(__cpp_lib_span)
    CHECK(file.read_at(std::span<std::byte>(buffer).first(10), 0) == 10);
#endif
}

void sealed_memory_is_the_file_and_takes_no_write() {
    const std::string all = slurp(tiny_path());
    Registry registry = fresh("sealed");
    registry.promote(tiny_path(), "tiny");
    Sealed sealed = registry.open_sealed("tiny");
    const Bytes bytes = sealed.bytes();
    CHECK(same(bytes, all) && bytes[0] == std::byte{'G'} && !bytes.empty());
    CHECK(std::equal(bytes.begin(), bytes.end(), sealed.bytes().begin()));
    const std::string path = sealed.path();
    CHECK(path == "/proc/self/fd/" + std::to_string(sealed.fd()) && slurp(path) == all);
    CHECK(::write(sealed.fd(), "x", 1) == -1);
    if (const int writable = ::open(path.c_str(), O_RDWR | O_CLOEXEC); writable != -1) {
        // Some may open it so, root among them; the seals do not ask who it is.
        CHECK(::write(writable, "x", 1) == -1 && errno == EPERM);
        CHECK(::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, writable, 0) == MAP_FAILED && errno == EPERM);
        ::close(writable);
    }
    CHECK(::ftruncate(sealed.fd(), 0) == -1);
    CHECK(::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, sealed.fd(), 0) == MAP_FAILED);

    Sealed other = std::move(sealed);
    // What a view leads to is not the object, and does not move with it.
    CHECK(same(bytes, all) && other.bytes().data() == bytes.data());
    CHECK(!sealed && sealed.fd() == -1 && std::string(sealed.path()).empty());
    CHECK_STATUS(closed, sealed.bytes());
    const Sealed twice = registry.open_sealed("tiny", "tiny-llama.gguf");
    struct stat here{}, there{};
    CHECK(::fstat(other.fd(), &here) == 0 && ::fstat(twice.fd(), &there) == 0);
    CHECK(here.st_ino == there.st_ino);  // one content is one memory
    other.close();
    other.close();
    CHECK(same(twice.bytes(), all));
#if defined(__cpp_lib_span)
    const Bytes again = twice.bytes();
    const std::span<const std::byte> span = again;
    CHECK(span.size() == all.size());
#endif
}

void a_damaged_byte_is_an_error_and_the_model_is_quarantined() {
    const std::string root = scratch + "/damage";
    const Registry registry = fresh("damage");
    const Model model = registry.promote(tiny_path(), "tiny").model;
    registry.verify("tiny");
    registry.verify_all();
    CHECK(registry.integrity().find("\"checked\":1") != std::string::npos);
    const File open = registry.open_file("tiny");
    damage(root, model.sha256(), 700000);
    CHECK(open.read(0, 10).size() == 10);  // another group
    const Error read = thrown_by([&] { return open.read(700000, 1); });
    CHECK(read.status() == Status::corrupt && read.model() == "tiny");
    CHECK_STATUS(quarantined, registry.open_file("tiny"));
    CHECK_STATUS(quarantined, registry.open_sealed("tiny"));
    CHECK_STATUS(quarantined, registry.open_gguf("tiny"));
    const Error verified = thrown_by([&] { registry.verify("tiny"); });
    CHECK(verified.status() == Status::corrupt && verified.model() == "tiny" && verified.expected().size() == 64);
    CHECK(verified.actual().size() == 64 && verified.actual() != verified.expected());
    CHECK_STATUS(corrupt, registry.verify_all());
    CHECK_STATUS(corrupt, registry.release("tiny", "hoping"));
    const Model bad = registry.lookup("tiny");
    CHECK(!bad.is_served() && bad.quarantine()->cause == "integrity" && !bad.quarantine()->incident_id);
    CHECK(model.is_served());  // what it was when it was asked for

    damage(root, model.sha256(), 700000);  // and back
    registry.verify("tiny");
    CHECK(registry.lookup("tiny").is_served());
}

void an_incident_ends_reads_and_a_release_brings_them_back() {
    const Registry registry = fresh("incident");
    registry.promote(tiny_path(), "tiny");
    const File file = registry.open_file("tiny");
    registry.quarantine("tiny", "CVE-2026-1", "INC-7");
    const Model model = registry.lookup("tiny");
    const auto why = model.quarantine();
    CHECK(why && why->reason == "CVE-2026-1" && why->cause == "incident" && why->incident_id == "INC-7");
    CHECK_STATUS(quarantined, file.read(0, 1));
    registry.release("tiny", "false alarm");
    CHECK(registry.open_file("tiny").read(0, 4).size() == 4);
}

struct Mine {
    int number;
};

void a_callback_stops_the_work_or_throws_through_it() {
    const Registry registry = fresh("callback");
    const Progress stop = [](Phase, std::uint64_t, std::uint64_t) { return false; };
    const Progress jump = [](Phase, std::uint64_t, std::uint64_t) -> bool { throw Mine{7}; };
    const auto threw = [](auto&& call) {
        try {
            (void)call();
        } catch (const Mine& mine) {
            return mine.number == 7;
        }
        return false;
    };
    CHECK_STATUS(cancelled, registry.promote(tiny_path(), "tiny", {}, stop));
    CHECK(threw([&] { return registry.promote(tiny_path(), "tiny", {}, jump); }));
    CHECK(registry.models().empty());
    registry.promote(tiny_path(), "tiny");
    CHECK_STATUS(cancelled, registry.verify("tiny", stop));
    CHECK_STATUS(cancelled, registry.verify_all(stop));
    CHECK_STATUS(cancelled, registry.open_sealed("tiny", std::nullopt, stop));
    CHECK(threw([&] { registry.verify("tiny", jump); }));
    CHECK(threw([&] { registry.verify_all(jump); }));
    CHECK(threw([&] { return registry.open_sealed("tiny", std::nullopt, jump); }));
    registry.quarantine("tiny", "a look");
    CHECK_STATUS(cancelled, registry.release("tiny", "done", stop));
    CHECK(threw([&] { registry.release("tiny", "done", jump); }));
    CHECK(!registry.lookup("tiny").is_served());
#if SECUREREG_HAS_EXPECTED
    CHECK(threw([&] { return registry.try_verify("tiny", jump); }));
    CHECK(registry.try_verify("tiny", stop).error().status() == Status::cancelled);
#endif
    bool verifying = false;
    registry.release("tiny", "done", [&](Phase phase, std::uint64_t, std::uint64_t) {
        verifying |= phase == Phase::verify;
        return true;
    });
    CHECK(verifying && registry.lookup("tiny").is_served());
}

void events_tell_what_changed_and_what_is_held() {
    const Registry registry = fresh("events");
    const Events events = registry.events();
    CHECK(!events.next());
    registry.promote(tiny_path(), "tiny");
    const Sealed held = registry.open_sealed("tiny");
    pollfd waiting{events.fd(), POLLIN, 0};
    CHECK(::poll(&waiting, 1, 10000) == 1);
    const auto promoted = events.next();
    CHECK(promoted && promoted->kind == EventKind::promoted && promoted->name == "tiny");
    CHECK(!events.next());
    // Another handle of the same root is another process's view.
    Registry::open(scratch + "/events", Mode::write).quarantine("tiny", "a look");
    CHECK(::poll(&waiting, 1, 10000) == 1);
    const auto quarantined = events.next();
    CHECK(quarantined && quarantined->kind == EventKind::quarantined && quarantined->sealed == 1);
    CHECK(quarantined && quarantined->generation == registry.generation());
    CHECK(!events.next());
    registry.release("tiny", "fine");
    const auto released = events.next();
    CHECK(released && released->kind == EventKind::released);
    registry.remove("tiny");
    const auto deleted = events.next();
    CHECK(deleted && deleted->kind == EventKind::deleted && deleted->name == "tiny");
    CHECK(same(held.bytes(), slurp(tiny_path())));
}

void a_split_set_is_several_files() {
    const Registry registry = fresh("split");
    const Model model = registry.promote(data + "/split/tiny-00001-of-00002.gguf", "split").model;
    CHECK(model.layout() == "split" && model.file_count() == 2);
    CHECK_STATUS(invalid_input, registry.open_file("split"));
    for (const ModelFile& file : model.files()) {
        const std::string all = slurp(data + "/split/" + std::string(file.path));
        CHECK(same(registry.open_file("split", file.path).read(0, all.size()), all));
        const Sealed sealed = registry.open_sealed("split", file.path);
        CHECK(same(sealed.bytes(), all));
        CHECK(registry.open_gguf("split", file.path).version() == 3);
    }
}

void a_header_says_what_is_in_the_file() {
    const Registry registry = fresh("gguf");
    registry.promote(tiny_path(), "tiny");
    const Gguf gguf = registry.open_gguf("tiny");
    CHECK(gguf.version() == 3 && gguf.alignment() == 32 && gguf.data_offset() % 32 == 0);
    CHECK(gguf.pair_count() > 0 && gguf.tensor_count() > 0);
    const auto architecture = gguf.find("general.architecture");
    CHECK(architecture && architecture->type == GgufType::string && architecture->count == 1);
    CHECK(std::get<std::string_view>(architecture->value) == "llama");
    const auto blocks = gguf.find("llama.block_count");
    CHECK(blocks && std::get<std::uint64_t>(blocks->value) > 0);
    CHECK(!gguf.find("no.such.key"));
    const auto tokens = gguf.find("tokenizer.ggml.tokens");
    CHECK(tokens && tokens->type == GgufType::array && tokens->array_type == GgufType::string && tokens->count == 338);
    CHECK(std::holds_alternative<std::monostate>(tokens->value));
    const auto strings = gguf.strings(*tokens);
    CHECK(strings.size() == 338 && std::find(strings.begin(), strings.end(), "<s>") != strings.end());
    CHECK_STATUS(invalid_input, gguf.strings(*architecture));
    const auto types = gguf.find("tokenizer.ggml.token_type");
    CHECK(types && types->array_type == GgufType::int32 && std::get<Bytes>(types->value).size() == 4 * types->count);
    for (std::uint64_t at = 0; at < gguf.pair_count(); ++at) CHECK(!gguf.pair(at).key.empty() && gguf.pair(at).index == at);
    CHECK_STATUS(not_found, gguf.pair(gguf.pair_count()));

    const Sealed sealed = registry.open_sealed("tiny");
    const Bytes all = sealed.bytes();
    const File file = registry.open_file("tiny");
    bool quantised = false;
    for (std::uint64_t at = 0; at < gguf.tensor_count(); ++at) {
        const GgufTensor tensor = gguf.tensor(at);
        quantised |= tensor.type_name == "Q8_0";
        CHECK(!tensor.name.empty() && !tensor.dimensions.empty() && tensor.dimensions.size() <= 4);
        CHECK(tensor.offset >= gguf.data_offset() && tensor.offset + tensor.size_bytes <= all.size());
        const auto bytes = file.read(tensor.offset, static_cast<std::size_t>(tensor.size_bytes));
        CHECK(std::equal(bytes.begin(), bytes.end(), all.begin() + tensor.offset));
    }
    CHECK(quantised);
    CHECK_STATUS(not_found, gguf.tensor(gguf.tensor_count()));

    registry.promote(data + "/hostile/s00_ok.safetensors", "tensors");
    CHECK_STATUS(refused, registry.open_gguf("tensors"));
}

void empty_handles_harm_nothing() {
    const Registry none;
    CHECK(!none && none.raw().id == 0);
    CHECK_STATUS(closed, none.generation());
    CHECK_STATUS(closed, none.models());
    CHECK_STATUS(closed, none.lookup("x"));
    CHECK_STATUS(closed, none.promote("x", "x"));
    CHECK_STATUS(closed, none.verify("x"));
    CHECK_STATUS(closed, none.open_file("x"));
    CHECK_STATUS(closed, none.open_sealed("x"));
    CHECK_STATUS(closed, none.open_gguf("x"));
    CHECK_STATUS(closed, none.events());
    const File file;
    CHECK_STATUS(closed, file.size());
    CHECK_STATUS(closed, file.read(0, 1));
    const Sealed sealed;
    CHECK_STATUS(closed, sealed.bytes());
    CHECK(sealed.fd() == -1);
    const Events events;
    CHECK_STATUS(closed, events.next());
    CHECK(events.fd() == -1);
    const Gguf gguf;
    CHECK_STATUS(closed, gguf.pair(0));
    CHECK_STATUS(closed, gguf.find("x"));
    CHECK_STATUS(closed, gguf.tensor(0));
    CHECK(gguf.pair_count() == 0 && gguf.version() == 0);
    const Model model;
    CHECK(model.name().empty() && !model.is_served() && !model.quarantine() && model.file_count() == 0);
    CHECK_STATUS(closed, model.files());

    Registry registry = fresh("empty");
    Model was = registry.promote(tiny_path(), "tiny").model;
    const std::string_view name = was.name();
    const Model is = std::move(was);
    CHECK(was.name().empty() && was.size_bytes() == 0 && is.name() == "tiny" && name.data() == is.name().data());
    Registry other = std::move(registry);
    CHECK_STATUS(closed, registry.models());
    Registry& self = other;
    other = std::move(self);
    CHECK(other.models().size() == 1);
    // Closed behind its back: the token is closed, and harms nothing.
    CHECK(::securereg_close(other.raw()) == SECUREREG_OK);
    CHECK_STATUS(closed, other.models());
}

void many_threads_share_a_registry_and_a_file() {
    const std::string all = slurp(tiny_path());
    const Registry registry = fresh("threads");
    registry.promote(tiny_path(), "tiny");
    const File shared = registry.open_file("tiny");
    std::atomic<int> good{0};
    std::vector<std::thread> threads;
    for (int number = 0; number < 16; ++number) {
        threads.emplace_back([&, number] {
            const File own = registry.open_file("tiny");
            const Sealed sealed = registry.open_sealed("tiny");
            bool right = same(sealed.bytes(), all) && registry.lookup("tiny").is_served();
            for (std::size_t round = 0; round < 50; ++round) {
                const std::size_t at = (static_cast<std::size_t>(number) * 8191 + round * 65537) % all.size();
                const auto expected = std::string_view(all).substr(at, 1000);
                right &= same((round % 2 ? own : shared).read(at, 1000), expected);
            }
            if (right) ++good;
        });
    }
    for (auto& thread : threads) thread.join();
    CHECK(good == 16);
}

void a_forked_child_is_told_so() {
    const Registry registry = fresh("fork");
    const pid_t child = ::fork();
    if (child == 0) {
        const bool told = thrown_by([&] { return registry.models(); }).status() == Status::forked;
        { Registry dropped = Registry(); }
        ::_exit(told ? 0 : 1);
    }
    int status = -1;
    CHECK(::waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(registry.models().empty());
}

#if SECUREREG_HAS_EXPECTED
void the_twins_return_what_the_others_throw() {
    auto opened = Registry::try_open(scratch + "/twins", Mode::create);
    CHECK(opened.has_value());
    const Registry registry = std::move(*opened);
    CHECK(Registry::try_open(scratch + "/none").error().status() == Status::not_found);
    CHECK(registry.try_lookup("tiny").error().status() == Status::not_found);
    CHECK(registry.try_promote(tiny_path(), "tiny").value().model.is_served());
    CHECK(registry.try_generation().value() == registry.generation());
    CHECK(registry.try_models().value().size() == 1);
    CHECK(registry.try_describe("tiny").value().front() == '{');
    CHECK(registry.try_mount_path("tiny").error().status() == Status::not_mounted);
    CHECK(registry.try_verify("tiny").has_value() && registry.try_verify_all().has_value());
    CHECK(registry.try_integrity().has_value());
    const auto file = registry.try_open_file("tiny");
    CHECK(file.value().try_size().value() == slurp(tiny_path()).size());
    CHECK(file->try_read(0, 4).value().size() == 4);
    std::byte few[2];
    CHECK(file->try_read_at(few, 2, 0).value() == 2);
    CHECK(File().try_size().error().status() == Status::closed);
    const auto sealed = registry.try_open_sealed("tiny");
    CHECK(sealed->try_bytes().value().size() == file->size());
    const auto gguf = registry.try_open_gguf("tiny");
    CHECK(gguf->try_pair(0).has_value() && gguf->try_tensor(0).has_value());
    CHECK(gguf->try_find("llama.block_count").value() && !gguf->try_find("no").value());
    CHECK(gguf->try_strings(*gguf->find("tokenizer.ggml.tokens")).value().size() == 338);
    const Model model = registry.lookup("tiny");
    CHECK(model.try_files().value().size() == 1 && model.try_file(9).error().status() == Status::not_found);
    const auto events = registry.try_events();
    CHECK(registry.try_quarantine("tiny", "a look").has_value());
    CHECK(events->try_next().value()->kind == EventKind::quarantined);
    CHECK(registry.try_open_file("tiny").error().status() == Status::quarantined);
    CHECK(registry.try_release("tiny", "fine").has_value());
    CHECK(registry.try_remove("tiny").has_value() && !registry.try_remove("tiny").has_value());
}
#endif

/// Whether a view can be taken from this: not from what is about to end.
template <class T, class = void>
struct Lends : std::false_type {};
template <class T>
struct Lends<T, std::void_t<decltype(std::declval<T>().name())>> : std::true_type {};
static_assert(Lends<Model&>::value && Lends<const Model&>::value && !Lends<Model>::value && !Lends<const Model>::value);

static_assert(!std::is_copy_constructible_v<Registry> && std::is_nothrow_move_constructible_v<Registry>);
static_assert(!std::is_copy_constructible_v<Sealed> && std::is_nothrow_move_assignable_v<Model>);
static_assert(std::is_nothrow_copy_constructible_v<Error> && std::is_nothrow_copy_assignable_v<Error>);

}  // namespace

int main(int argc, char** argv) try {
    if (argc != 3) {
        std::fprintf(stderr, "usage: test DATA SCRATCH\n");
        return 2;
    }
    data = argv[1];
    scratch = argv[2];
    words_and_versions();
    a_model_says_what_was_promoted();
    errors_say_what_on_which_model_and_both_digests();
    a_nul_in_a_string_is_refused_and_nothing_is_cut_off();
    reads_give_what_was_promoted_up_to_the_end();
    sealed_memory_is_the_file_and_takes_no_write();
    a_damaged_byte_is_an_error_and_the_model_is_quarantined();
    an_incident_ends_reads_and_a_release_brings_them_back();
    a_callback_stops_the_work_or_throws_through_it();
    events_tell_what_changed_and_what_is_held();
    a_split_set_is_several_files();
    a_header_says_what_is_in_the_file();
    empty_handles_harm_nothing();
    many_threads_share_a_registry_and_a_file();
    a_forked_child_is_told_so();
#if SECUREREG_HAS_EXPECTED
    the_twins_return_what_the_others_throw();
#endif
    return check::result("test");
} catch (const Error& error) {
    std::fprintf(stderr, "test: %s: %s\n", to_string(error.status()), error.what());
    return 1;
}
