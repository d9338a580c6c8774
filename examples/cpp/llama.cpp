// Generates text with llama.cpp out of sealed memory: what the engine maps or reads was checked whole before it sees the
// first byte, and nobody, root included, can change it while it runs.
//
//   llama ROOT MODEL [MODE [PROMPT [COUNT]]]    a GGUF model of the registry at ROOT, a single file or a split set
//   llama --demo FILE [MODE [PROMPT [COUNT]]]   the same of FILE (of a split set its first shard), in a registry of its own
//
// MODE is llama.cpp's own word: mmap (the default), none (it copies what it reads), mlock, dio.

#include <fcntl.h>
#include <llama.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <securereg.hpp>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

struct Free {
    void operator()(llama_model* model) const { llama_model_free(model); }
    void operator()(llama_context* context) const { llama_free(context); }
    void operator()(llama_sampler* sampler) const { llama_sampler_free(sampler); }
};
template <class T>
using Owned = std::unique_ptr<T, Free>;

/// A folder that is gone when this is.
class TemporaryFolder {
  public:
    TemporaryFolder() {
        if (!::mkdtemp(path_.data())) throw std::runtime_error("no temporary folder");
    }
    TemporaryFolder(const TemporaryFolder&) = delete;
    TemporaryFolder& operator=(const TemporaryFolder&) = delete;
    ~TemporaryFolder() {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
    const std::string& path() const { return path_; }

  private:
    std::string path_ = (std::filesystem::temp_directory_path() / "llama-demo.XXXXXX").string();
};

void must_fail(const char* what, bool failed) {
    const int why = errno;
    if (!failed) throw std::logic_error(std::string(what) + " went through: the memory is not sealed");
    std::cout << what << ": " << std::strerror(why) << "\n";
}

/// Tries what would change the bytes under the engine, in each way there is.
void show_that_it_is_sealed(const securereg::Sealed& sealed) {
    must_fail("write to the descriptor", ::write(sealed.fd(), "x", 1) == -1);
    const auto map = [](int fd) { return ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0); };
    must_fail("writable map of the descriptor", map(sealed.fd()) == MAP_FAILED);
    // Who opens it anew may get a writable descriptor; the seals hold all the same.
    const int again = ::open(sealed.path(), O_RDWR | O_CLOEXEC);
    if (again == -1) return must_fail("open to write", true);
    must_fail("write to a writable descriptor", ::write(again, "x", 1) == -1);
    must_fail("writable map of a writable descriptor", map(again) == MAP_FAILED);
    must_fail("truncation", ::ftruncate(again, 0) == -1);
    ::close(again);
}

/// Every file of the model in sealed memory, in the order of its shards.
std::vector<securereg::Sealed> seal(const securereg::Registry& registry, const std::string& name) {
    const securereg::Model model = registry.lookup(name);
    if (model.format() != "gguf") throw std::runtime_error(name + " is no GGUF");
    std::vector<securereg::Sealed> sealed;
    for (const auto& file : model.files()) sealed.push_back(registry.open_sealed(name, file.path));
    return sealed;
}

Owned<llama_model> load(const std::vector<securereg::Sealed>& files, const std::string& mode) {
    llama_model_params params = llama_model_default_params();
    params.load_mode = llama_load_mode_from_str(mode.c_str());
    if (mode != llama_load_mode_name(params.load_mode)) throw std::runtime_error("llama.cpp knows no mode " + mode);
    std::vector<const char*> paths;
    for (const auto& file : files) paths.push_back(file.path());
    // A path that says "fd/7" tells llama.cpp nothing about further shards: those it must be given.
    Owned<llama_model> model(paths.size() == 1 ? llama_model_load_from_file(paths[0], params)
                                               : llama_model_load_from_splits(paths.data(), paths.size(), params));
    if (!model) throw std::runtime_error("llama.cpp does not load it");
    return model;
}

/// How many mappings of sealed memory this process has: llama.cpp's, as nobody else here maps it.
int mapped() {
    std::ifstream maps("/proc/self/maps");
    int count = 0;
    for (std::string line; std::getline(maps, line);) count += line.find("/memfd:") != std::string::npos;
    return count;
}

/// Sealed bytes outlive a quarantine, so who generates has to ask.
void stop_if_quarantined(const securereg::Events& events, const std::string& name) {
    while (const auto event = events.next()) {
        if (event->kind == securereg::EventKind::quarantined && event->name == name)
            throw std::runtime_error(name + " was quarantined while it was used");
    }
}

std::vector<llama_token> generate(llama_model* model, const std::string& prompt, std::size_t count,
                                  const securereg::Events& events, const std::string& name) {
    llama_context_params params = llama_context_default_params();
    params.n_ctx = 512;
    params.n_threads = params.n_threads_batch = 2;
    // Flash attention rounds otherwise than the reference, and the ids of a random model hang on small margins.
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    const Owned<llama_context> context(llama_init_from_model(model, params));
    if (!context) throw std::runtime_error("no context");

    std::vector<llama_token> tokens(prompt.size() + 8), ids;
    const int length = llama_tokenize(llama_model_get_vocab(model), prompt.data(), static_cast<int>(prompt.size()),
                                      tokens.data(), static_cast<int>(tokens.size()), true, true);
    if (length <= 0 || length + count > params.n_ctx) throw std::runtime_error("the prompt is empty or too long");
    tokens.resize(static_cast<std::size_t>(length));

    const Owned<llama_sampler> greedy(llama_sampler_init_greedy());
    llama_batch batch = llama_batch_get_one(tokens.data(), length);
    while (ids.size() < count) {
        stop_if_quarantined(events, name);
        if (llama_decode(context.get(), batch) != 0) throw std::runtime_error("llama_decode failed");
        ids.push_back(llama_sampler_sample(greedy.get(), context.get(), -1));
        batch = llama_batch_get_one(&ids.back(), 1);
    }
    return ids;
}

void run(const securereg::Registry& registry, const std::string& name, const std::string& mode, const std::string& prompt,
         std::size_t count) {
    const securereg::Events events = registry.events();
    const auto files = seal(registry, name);
    std::cout << files.size() << " file(s) in sealed memory, first at " << files[0].path() << ", mode " << mode << "\n";
    show_that_it_is_sealed(files[0]);
    const Owned<llama_model> model = load(files, mode);
    std::cout << "mapped " << mapped() << "\nids";
    for (const llama_token id : generate(model.get(), prompt, count, events, name)) std::cout << ' ' << id;
    std::cout << std::endl;
}

}  // namespace

int main(int argc, char** argv) try {
    if (argc < 3 || argc > 6) {
        std::cerr << "usage: llama ROOT MODEL [MODE [PROMPT [COUNT]]]\n       llama --demo FILE [MODE [PROMPT [COUNT]]]\n";
        return 2;
    }
    const std::string mode = argc > 3 ? argv[3] : "mmap", prompt = argc > 4 ? argv[4] : "hello the cat";
    const std::size_t count = argc > 5 ? std::stoul(argv[5]) : 12;
    const auto on_log = [](ggml_log_level level, const char* text, void*) {
        if (level >= GGML_LOG_LEVEL_ERROR && level != GGML_LOG_LEVEL_CONT) std::fputs(text, stderr);
    };
    llama_log_set(on_log, nullptr);
    llama_backend_init();
    if (argv[1] == std::string("--demo")) {
        const TemporaryFolder folder;
        const auto registry = securereg::Registry::open(folder.path(), securereg::Mode::create);
        registry.promote(argv[2], "demo");
        run(registry, "demo", mode, prompt, count);
    } else {
        run(securereg::Registry::open(argv[1]), argv[2], mode, prompt, count);
    }
    llama_backend_free();
    return 0;
} catch (const securereg::Error& error) {
    std::cerr << "llama: " << securereg::to_string(error.status()) << ": " << error.what() << "\n";
    return 1;
} catch (const std::exception& error) {
    std::cerr << "llama: " << error.what() << "\n";
    return 1;
}
