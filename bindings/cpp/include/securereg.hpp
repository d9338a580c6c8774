// securereg.hpp: verified model bytes for programs in C++17 and later. Header only; sees nothing but securereg.h.
//
// Every byte that comes out of it was hashed against what was promoted.
//
// Handles   Registry, Model, File, Sealed, Events and Gguf own what they stand for: they move and do not copy, and the
//           destructor closes. What was opened from a Registry outlives it. An empty handle (default-made, closed or moved
//           from) harms nothing: what is asked of it is Status::closed.
// Errors    are thrown as securereg::Error. Where the standard library has std::expected (C++23), each function that can
//           fail has a twin named try_..., which returns its Error instead. Without exceptions (-fno-exceptions) the
//           functions that would throw end the program; the twins are as they are.
// Views     std::string_view, Bytes and const char* point into what the handle stands for, and end with it; moving the
//           handle leaves them as they are. They cannot be taken from a temporary.
// Strings   given are UTF-8, and are refused (Status::invalid_input) when there is a NUL in them.
// Progress  is a std::function that returns true to go on and false to stop (Status::cancelled). It is called by one thread
//           at a time, not always the one that made the call, and must not use this library. An exception in it stops the
//           work, and is thrown again by the call, also by a try_ twin.
// Threads   const functions of one object may be called by any number of threads at once; close, move and destroy an object
//           when nobody else uses it.
// fork      a forked child gets Status::forked from everything until it calls exec; destructors are harmless there.

#ifndef SECUREREG_HPP
#define SECUREREG_HPP

#include "securereg.h"

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <iterator>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#if defined(__has_include)
#if __has_include(<version>)
#include <version>
#endif
#endif
#if defined(__cpp_lib_expected)
#include <expected>
#define SECUREREG_HAS_EXPECTED 1
#else
#define SECUREREG_HAS_EXPECTED 0
#endif
#if defined(__cpp_exceptions) || defined(_CPPUNWIND)
#define SECUREREG_HAS_EXCEPTIONS 1
#else
#define SECUREREG_HAS_EXCEPTIONS 0
#endif

namespace securereg {

/// How a call ended: see enum securereg_status. Treat a number you do not know as a failure.
enum class Status : std::int32_t {
    ok = SECUREREG_OK,
    invalid_input = SECUREREG_INVALID_INPUT,
    digest_mismatch = SECUREREG_DIGEST_MISMATCH,
    refused = SECUREREG_REFUSED,
    source_changed = SECUREREG_SOURCE_CHANGED,
    conflict = SECUREREG_CONFLICT,
    not_found = SECUREREG_NOT_FOUND,
    quarantined = SECUREREG_QUARANTINED,
    corrupt = SECUREREG_CORRUPT,
    unreadable = SECUREREG_UNREADABLE,
    manifest = SECUREREG_MANIFEST,
    audit = SECUREREG_AUDIT,
    not_mounted = SECUREREG_NOT_MOUNTED,
    no_space = SECUREREG_NO_SPACE,
    too_large = SECUREREG_TOO_LARGE,
    permission = SECUREREG_PERMISSION,
    unsupported = SECUREREG_UNSUPPORTED,
    cancelled = SECUREREG_CANCELLED,
    io = SECUREREG_IO,
    no_memory = SECUREREG_NO_MEMORY,
    closed = SECUREREG_CLOSED,
    forked = SECUREREG_FORKED,
    null = SECUREREG_NULL,
    wrong_size = SECUREREG_WRONG_SIZE,
    too_many = SECUREREG_TOO_MANY,
    panic = SECUREREG_PANIC,
};

/// The word for a status, such as "not_found".
inline const char* to_string(Status status) noexcept {
    return ::securereg_status_name(static_cast<std::int32_t>(status));
}

/// The version of the library that is loaded; SECUREREG_VERSION is the one this was compiled with.
inline const char* version() noexcept { return ::securereg_version(); }

/// A failure. Copies are cheap and do not throw.
class Error : public std::runtime_error {
  public:
    explicit Error(Status status, const std::string& message, std::string model = {}, std::string expected = {},
                   std::string actual = {})
        : std::runtime_error(message),
          said_(std::make_shared<const Said>(Said{status, std::move(model), std::move(expected), std::move(actual)})) {}
    // No move: one that was moved from would have nothing to say.
    Error(const Error&) noexcept = default;
    Error& operator=(const Error&) noexcept = default;
    ~Error() override = default;

    Status status() const noexcept { return said_->status; }
    /// The model it is about; empty where it is about none.
    const std::string& model() const noexcept { return said_->model; }
    /// Of a digest that is not what it should be: the one that was promoted or claimed, bare hex; else empty.
    const std::string& expected() const noexcept { return said_->expected; }
    /// Of a digest that is not what it should be: the one that was found, bare hex; else empty.
    const std::string& actual() const noexcept { return said_->actual; }

  private:
    struct Said {
        Status status;
        std::string model, expected, actual;
    };
    std::shared_ptr<const Said> said_;
};

/// Bytes to be read: a pointer and a size. A std::span<const std::byte> is made of it without a word.
class Bytes {
  public:
    constexpr Bytes() noexcept = default;
    constexpr Bytes(const std::byte* data, std::size_t size) noexcept : data_(data), size_(size) {}

    constexpr const std::byte* data() const noexcept { return data_; }
    constexpr std::size_t size() const noexcept { return size_; }
    constexpr bool empty() const noexcept { return size_ == 0; }
    constexpr const std::byte* begin() const noexcept { return data_; }
    constexpr const std::byte* end() const noexcept { return data_ + size_; }
    constexpr const std::byte& operator[](std::size_t at) const noexcept { return data_[at]; }

  private:
    const std::byte* data_ = nullptr;
    std::size_t size_ = 0;
};

/// What long work is doing.
enum class Phase : std::uint32_t {
    copy = SECUREREG_PHASE_COPY,      ///< reading a source, hashing and copying it, or filling sealed memory
    verify = SECUREREG_PHASE_VERIFY,  ///< hashing bytes against what was promoted
};

/// Is told of `done` of `total` bytes; true goes on, false stops. Empty: nobody is told.
using Progress = std::function<bool(Phase phase, std::uint64_t done, std::uint64_t total)>;

namespace detail {

/// The success of what returns nothing.
struct Done {};

#if SECUREREG_HAS_EXCEPTIONS
[[noreturn]] inline void fail(const Error& error) { throw error; }
#else
[[noreturn]] inline void fail(const Error& error) {
    std::fprintf(stderr, "securereg: %s: %s\n", to_string(error.status()), error.what());
    std::abort();
}
#endif

/// A value or an Error: what each function is written in, once, before it throws or returns a std::expected.
template <class T>
class [[nodiscard]] Result {
    using Plain = std::conditional_t<std::is_same_v<T, Done>, void, T>;

  public:
    Result(T value) : what_(std::in_place_index<0>, std::move(value)) {}
    Result(const Error& error) : what_(std::in_place_index<1>, error) {}

    const Error* error() const noexcept { return std::get_if<1>(&what_); }
    /// The value of one that has no error.
    T& operator*() noexcept { return *std::get_if<0>(&what_); }

    Plain value() && {
        if (const Error* failed = error()) fail(*failed);
        if constexpr (!std::is_void_v<Plain>) return std::move(**this);
    }
#if SECUREREG_HAS_EXPECTED
    std::expected<Plain, Error> expected() && {
        if (const Error* failed = error()) return std::unexpected(*failed);
        if constexpr (std::is_void_v<Plain>) {
            return {};
        } else {
            return std::move(**this);
        }
    }
#endif

  private:
    std::variant<T, Error> what_;
};

/// Runs a call of the C library, which is given where to put its error.
template <class Call>
Result<Done> run(Call&& call) {
    struct Told {
        securereg_error raw{};
        ~Told() { (void)::securereg_error_free(raw); }
    } told;
    const auto status = static_cast<Status>(static_cast<std::int32_t>(call(&told.raw)));
    if (status == Status::ok) return Done{};
    // Not every failure can be told in full: not in a forked child, and not when no handle is left.
    if (told.raw.id == 0) return Error(status, std::string("the library said only: ") + to_string(status));
    return Error(status, ::securereg_error_message(told.raw), ::securereg_error_model(told.raw),
                 ::securereg_error_expected(told.raw), ::securereg_error_actual(told.raw));
}

template <class T, class = void>
struct BeginsWithSize : std::false_type {};
template <class T>
struct BeginsWithSize<T, std::void_t<decltype(T::size)>> : std::true_type {};

/// What a call of the C library writes to where it is told; a struct that begins with its size is given it.
template <class T, class Call>
Result<T> got(Call&& call) {
    T out{};
    if constexpr (BeginsWithSize<T>::value) out.size = sizeof out;
    const auto done = run([&](auto* e) { return call(&out, e); });
    if (done.error()) return *done.error();
    return out;
}

/// The owner of a token: closes it, once.
template <class Raw, securereg_status (*Close)(Raw)>
class Owner {
  public:
    Owner() noexcept = default;
    explicit Owner(Raw raw) noexcept : raw_(raw) {}
    Owner(Owner&& other) noexcept : raw_(std::exchange(other.raw_, Raw{})) {}
    Owner& operator=(Owner&& other) noexcept {
        if (this != &other) {
            close();
            raw_ = std::exchange(other.raw_, Raw{});
        }
        return *this;
    }
    Owner(const Owner&) = delete;
    Owner& operator=(const Owner&) = delete;
    ~Owner() { close(); }

    /// Whether it stands for something: not default-made, closed or moved from.
    explicit operator bool() const noexcept { return raw_.id != 0; }
    /// Closes it before its destructor would. Closing nothing is fine.
    void close() noexcept {
        if (raw_.id != 0) (void)Close(std::exchange(raw_, Raw{}));
    }
    /// The C library's handle, which stays this object's.
    Raw raw() const noexcept { return raw_; }

  private:
    Raw raw_{};
};

/// A string on its way to C: with a NUL behind it and none inside, or NULL.
class CText {
  public:
    CText(const char* what, std::optional<std::string_view> text) : what_(what), given_(text.has_value()) {
        if (text) text_ = *text;
    }

    const char* get() const noexcept { return given_ ? text_.c_str() : nullptr; }
    bool is_cut() const noexcept { return text_.find('\0') != std::string::npos; }
    const char* what() const noexcept { return what_; }

  private:
    const char* what_;
    bool given_;
    std::string text_;
};

/// The error that one of these strings is, if C would see only a part of it.
template <class... Texts>
std::optional<Error> refuse(const Texts&... texts) {
    const char* cut = nullptr;
    ((cut == nullptr && texts.is_cut() ? void(cut = texts.what()) : void()), ...);
    if (cut == nullptr) return std::nullopt;
    return Error(Status::invalid_input, std::string(cut) + " has a NUL in it");
}

/// Long work, watched by a Progress: keeps exceptions on this side of C.
class Watch {
  public:
    explicit Watch(const Progress& progress) : progress_(progress) {
        task_.size = sizeof task_;
        task_.progress = on_progress;
        task_.user = this;
    }
    Watch(const Watch&) = delete;
    Watch& operator=(const Watch&) = delete;

    const securereg_task* task() const noexcept { return progress_ ? &task_ : nullptr; }
    /// To be called when C has returned and what it gave is owned.
    void rethrow() const {
        if (thrown_) std::rethrow_exception(thrown_);
    }

  private:
    static std::int32_t on_progress(void* user, std::uint32_t phase, std::uint64_t done, std::uint64_t total) noexcept {
        auto& watch = *static_cast<Watch*>(user);
#if SECUREREG_HAS_EXCEPTIONS
        try {
            return watch.progress_(static_cast<Phase>(phase), done, total) ? 0 : 1;
        } catch (...) {
            watch.thrown_ = std::current_exception();
            return 1;
        }
#else
        return watch.progress_(static_cast<Phase>(phase), done, total) ? 0 : 1;
#endif
    }

    const Progress& progress_;
    securereg_task task_{};
    std::exception_ptr thrown_;
};

inline std::string_view view(const char* text) noexcept { return text ? std::string_view(text) : std::string_view(); }

inline std::optional<std::string_view> optional_view(const char* text) noexcept {
    return text ? std::optional<std::string_view>(text) : std::nullopt;
}

/// What the C library writes into a text of its own.
template <class Call>
Result<std::string> text(Call&& call) {
    auto raw = got<securereg_text>(call);
    if (raw.error()) return *raw.error();
    const Owner<securereg_text, ::securereg_text_free> owner(*raw);
    std::size_t size = 0;
    auto data = got<const char*>([&](auto* out, auto* e) { return ::securereg_text_data(owner.raw(), out, &size, e); });
    if (data.error()) return *data.error();
    return std::string(*data, size);
}

}  // namespace detail

/// One file of a model. Its views belong to the Model.
struct ModelFile {
    std::string_view path;  ///< inside the model; of a single file its name
    std::string_view sha256, blake3;
    std::uint64_t size_bytes = 0;
};

/// Why a model is not served. Its views belong to the Model.
struct Quarantine {
    std::string_view reason;
    std::string_view cause;  ///< who decides over its release: "integrity" or "incident"
    std::optional<std::string_view> incident_id;
};

/// What is recorded of a model, as it was when it was asked for.
class Model : public detail::Owner<securereg_model, ::securereg_model_free> {
  public:
    Model() noexcept = default;

    std::string_view name() const& noexcept { return text(info_.name); }
    /// Bare hex; of several files that of their list.
    std::string_view sha256() const& noexcept { return text(info_.sha256); }
    /// "gguf", "safetensors", "pytorch" or "onnx"; later versions may know more.
    std::string_view format() const& noexcept { return text(info_.format); }
    /// "file", "folder" or "split".
    std::string_view layout() const& noexcept { return text(info_.layout); }
    /// Where it came from, in the promoter's words.
    std::string_view source() const& noexcept { return text(info_.source); }
    /// When it was promoted: RFC 3339, UTC.
    std::string_view promoted_at() const& noexcept { return text(info_.promoted_at); }
    /// Why it is not served; nothing when it is.
    std::optional<Quarantine> quarantine() const& noexcept {
        if (!*this || info_.status == SECUREREG_MODEL_PROMOTED) return std::nullopt;
        return Quarantine{detail::view(info_.quarantine_reason), detail::view(info_.quarantine_cause),
                          detail::optional_view(info_.incident_id)};
    }
    /// Whether it is served.
    bool is_served() const noexcept { return *this && info_.status == SECUREREG_MODEL_PROMOTED; }
    std::uint64_t size_bytes() const noexcept { return *this ? info_.size_bytes : 0; }
    std::uint64_t file_count() const noexcept { return *this ? info_.file_count : 0; }

    /// The file at `index`, from 0, sorted by path. Status::not_found from file_count() on.
    ModelFile file(std::uint64_t index) const& { return file_(index).value(); }
    /// All files, sorted by path.
    std::vector<ModelFile> files() const& { return files_().value(); }
#if SECUREREG_HAS_EXPECTED
    std::expected<ModelFile, Error> try_file(std::uint64_t index) const& { return file_(index).expected(); }
    std::expected<std::vector<ModelFile>, Error> try_files() const& { return files_().expected(); }
    void try_file(std::uint64_t) const&& = delete;
    void try_files() const&& = delete;
#endif
    // Views of a temporary would lead to nothing.
    void name() const&& = delete;
    void sha256() const&& = delete;
    void format() const&& = delete;
    void layout() const&& = delete;
    void source() const&& = delete;
    void promoted_at() const&& = delete;
    void quarantine() const&& = delete;
    void file(std::uint64_t) const&& = delete;
    void files() const&& = delete;

  private:
    friend class Registry;

    /// Takes the handle over.
    static detail::Result<Model> take(securereg_model raw) {
        Model model(raw);
        auto info = detail::got<securereg_model_info>(
            [&](auto* out, auto* e) { return ::securereg_model_get(raw, out, e); });
        if (info.error()) return *info.error();
        model.info_ = *info;
        return model;
    }
    explicit Model(securereg_model raw) noexcept : Owner(raw) {}

    // The strings stay where they are when this is moved; when it is empty they may be gone.
    std::string_view text(const char* of) const noexcept { return *this ? detail::view(of) : std::string_view(); }

    detail::Result<ModelFile> file_(std::uint64_t index) const {
        auto got = detail::got<securereg_file_info>(
            [&](auto* out, auto* e) { return ::securereg_model_file(raw(), index, out, e); });
        if (got.error()) return *got.error();
        const securereg_file_info& info = *got;
        return ModelFile{detail::view(info.path), detail::view(info.sha256), detail::view(info.blake3), info.size_bytes};
    }
    detail::Result<std::vector<ModelFile>> files_() const {
        // Of an empty handle this is no empty list but an error.
        std::vector<ModelFile> files;
        const std::uint64_t count = *this ? info_.file_count : 1;
        for (std::uint64_t at = 0; at < count; ++at) {
            auto file = file_(at);
            if (file.error()) return *file.error();
            files.push_back(*file);
        }
        return files;
    }

    securereg_model_info info_{};
};

/// One file of a promoted model, open for verified reads.
class File : public detail::Owner<securereg_file, ::securereg_file_close> {
  public:
    File() noexcept = default;

    /// Its size in bytes, as promoted.
    std::uint64_t size() const { return size_().value(); }
    /// Reads up to `len` bytes from `offset` on into `buffer`, and returns how many: less only at the end of the file.
    /// After a failure `buffer` may hold bytes, but none that were not checked.
    std::size_t read_at(void* buffer, std::size_t len, std::uint64_t offset) const {
        return read_at_(buffer, len, offset).value();
    }
    /// The same into what has std::data and std::size: std::span, std::vector, std::array of bytes.
    template <class Buffer, class Byte = std::remove_pointer_t<decltype(std::data(std::declval<Buffer&>()))>>
    std::size_t read_at(Buffer&& buffer, std::uint64_t offset) const {
        static_assert(sizeof(Byte) == 1 && std::is_trivially_copyable_v<Byte> && !std::is_const_v<Byte>);
        return read_at(std::data(buffer), std::size(buffer), offset);
    }
    /// Up to `len` bytes from `offset` on, in memory of their own.
    std::vector<std::byte> read(std::uint64_t offset, std::size_t len) const { return read_(offset, len).value(); }
#if SECUREREG_HAS_EXPECTED
    std::expected<std::uint64_t, Error> try_size() const { return size_().expected(); }
    std::expected<std::size_t, Error> try_read_at(void* buffer, std::size_t len, std::uint64_t offset) const {
        return read_at_(buffer, len, offset).expected();
    }
    std::expected<std::vector<std::byte>, Error> try_read(std::uint64_t offset, std::size_t len) const {
        return read_(offset, len).expected();
    }
#endif

  private:
    friend class Registry;
    explicit File(securereg_file raw) noexcept : Owner(raw) {}

    detail::Result<std::uint64_t> size_() const {
        return detail::got<std::uint64_t>([&](auto* out, auto* e) { return ::securereg_file_size(raw(), out, e); });
    }
    detail::Result<std::size_t> read_at_(void* buffer, std::size_t len, std::uint64_t offset) const {
        return detail::got<std::size_t>(
            [&](auto* out, auto* e) { return ::securereg_read_at(raw(), buffer, len, offset, out, e); });
    }
    detail::Result<std::vector<std::byte>> read_(std::uint64_t offset, std::size_t len) const {
        auto size = size_();
        if (size.error()) return *size.error();
        // A length alone must not decide how much memory is taken.
        const std::uint64_t left = *size > offset ? *size - offset : 0;
        std::vector<std::byte> bytes(left < len ? static_cast<std::size_t>(left) : len);
        auto read = read_at_(bytes.data(), bytes.size(), offset);
        if (read.error()) return *read.error();
        bytes.resize(*read);
        return bytes;
    }
};

/// One file of a promoted model in sealed memory, which nobody can change any more. It outlives a quarantine: watch Events.
class Sealed : public detail::Owner<securereg_sealed, ::securereg_sealed_close> {
  public:
    Sealed() noexcept = default;

    /// A path that opens it in this process, "/proc/self/fd/N": what a loader is given. It and what it leads to end with
    /// this object; "" of an empty one.
    const char* path() const& noexcept { return *this ? path_ : ""; }
    /// The descriptor: read-only, close-on-exec. It stays this object's: do not close it, and dup it to keep it.
    int fd() const noexcept { return *this ? fd_ : -1; }
    /// All of it, mapped on the first call.
    Bytes bytes() const& { return bytes_().value(); }
#if SECUREREG_HAS_EXPECTED
    std::expected<Bytes, Error> try_bytes() const& { return bytes_().expected(); }
    void try_bytes() const&& = delete;
#endif
    void path() const&& = delete;
    void bytes() const&& = delete;

  private:
    friend class Registry;
    explicit Sealed(securereg_sealed raw) noexcept : Owner(raw) {}

    /// Takes the handle over.
    static detail::Result<Sealed> take(securereg_sealed raw) {
        Sealed sealed(raw);
        auto path = detail::got<const char*>([&](auto* out, auto* e) { return ::securereg_sealed_path(raw, out, e); });
        if (path.error()) return *path.error();
        auto fd = detail::got<int>([&](auto* out, auto* e) { return ::securereg_sealed_fd(raw, out, e); });
        if (fd.error()) return *fd.error();
        sealed.path_ = *path;
        sealed.fd_ = *fd;
        return sealed;
    }
    detail::Result<Bytes> bytes_() const {
        std::size_t size = 0;
        auto data = detail::got<const void*>(
            [&](auto* out, auto* e) { return ::securereg_sealed_map(raw(), out, &size, e); });
        if (data.error()) return *data.error();
        return Bytes(static_cast<const std::byte*>(*data), size);
    }

    const char* path_ = "";
    int fd_ = -1;
};

/// What happened to a model. A number you do not know is a change of some other sort.
enum class EventKind : std::uint32_t {
    promoted = SECUREREG_EVENT_PROMOTED,
    replaced = SECUREREG_EVENT_REPLACED,        ///< the name stands for other content now
    quarantined = SECUREREG_EVENT_QUARANTINED,  ///< not served any more; Event::sealed says how much of it is held here
    released = SECUREREG_EVENT_RELEASED,
    deleted = SECUREREG_EVENT_DELETED,
};

/// One change of one model.
struct Event {
    EventKind kind{};
    std::uint32_t sealed = 0;      ///< how many of the model's files this process holds in sealed memory
    std::uint64_t generation = 0;  ///< of the catalog that shows it
    std::string name;
};

/// A subscription to what changes in a registry, by whatever process.
class Events : public detail::Owner<securereg_events, ::securereg_events_close> {
  public:
    Events() noexcept = default;

    /// For poll(2): when it is readable, call next() until it has nothing. It stays this object's: do not read or close it.
    int fd() const noexcept { return *this ? fd_ : -1; }
    /// The next event, or nothing; it does not wait. Status::manifest while the registry's records do not hold.
    std::optional<Event> next() const { return next_().value(); }
#if SECUREREG_HAS_EXPECTED
    std::expected<std::optional<Event>, Error> try_next() const { return next_().expected(); }
#endif

  private:
    friend class Registry;
    explicit Events(securereg_events raw) noexcept : Owner(raw) {}

    /// Takes the handle over.
    static detail::Result<Events> take(securereg_events raw) {
        Events events(raw);
        auto fd = detail::got<int>([&](auto* out, auto* e) { return ::securereg_events_fd(raw, out, e); });
        if (fd.error()) return *fd.error();
        events.fd_ = *fd;
        return events;
    }
    detail::Result<std::optional<Event>> next_() const {
        auto got = detail::got<securereg_event>(
            [&](auto* out, auto* e) { return ::securereg_events_next(raw(), out, e); });
        if (got.error()) return *got.error();
        const securereg_event& told = *got;
        if (told.kind == SECUREREG_EVENT_NONE) return std::optional<Event>();
        return std::optional<Event>(Event{static_cast<EventKind>(told.kind), told.sealed, told.generation, told.name});
    }

    int fd_ = -1;
};

/// ggml's gguf_type.
enum class GgufType : std::uint32_t {
    uint8, int8, uint16, int16, uint32, int32, float32, boolean, string, array, uint64, int64, float64,
};

/// A metadata pair. Its views belong to the Gguf.
struct GgufPair {
    std::uint64_t index = 0;
    std::string_view key;
    GgufType type{};
    GgufType array_type{};    ///< of an array: the type of its values
    std::uint64_t count = 1;  ///< of an array: how many values it has
    /// By its type: an unsigned integer, a signed one, a float, a boolean, a string (which may not be UTF-8), or the values
    /// of an array of numbers or booleans, packed, little-endian and not aligned. Of another array nothing: see
    /// Gguf::strings.
    std::variant<std::monostate, std::uint64_t, std::int64_t, double, bool, std::string_view, Bytes> value;
};

/// A tensor. Its views belong to the Gguf.
struct GgufTensor {
    std::string_view name;
    std::string_view type_name;  ///< ggml's, such as "Q4_K"
    std::uint32_t type_id = 0;   ///< ggml's number of it
    std::vector<std::uint64_t> dimensions;  ///< 1 to 4, ne0 (the innermost) first
    std::uint64_t offset = 0;  ///< from the start of the file: what File::read_at takes
    std::uint64_t size_bytes = 0;
};

/// The header of a GGUF file, without its weights.
class Gguf : public detail::Owner<securereg_gguf, ::securereg_gguf_free> {
  public:
    Gguf() noexcept = default;

    /// 2 or 3.
    std::uint32_t version() const noexcept { return *this ? info_.version : 0; }
    std::uint64_t pair_count() const noexcept { return *this ? info_.pair_count : 0; }
    std::uint64_t tensor_count() const noexcept { return *this ? info_.tensor_count : 0; }
    /// Where tensor data begins, in bytes from the start of the file, and how it is aligned.
    std::uint64_t data_offset() const noexcept { return *this ? info_.data_offset : 0; }
    std::uint64_t alignment() const noexcept { return *this ? info_.alignment : 0; }

    /// The metadata pair at `index`, from 0, in file order. Status::not_found from pair_count() on.
    GgufPair pair(std::uint64_t index) const& { return pair_(index).value(); }
    /// The metadata pair with this key, such as "general.architecture"; nothing where there is none.
    std::optional<GgufPair> find(std::string_view key) const& { return find_(key).value(); }
    /// The values of an array of strings. Status::invalid_input of anything else.
    std::vector<std::string_view> strings(const GgufPair& pair) const& { return strings_(pair).value(); }
    /// The tensor at `index`, from 0, in file order. Status::not_found from tensor_count() on.
    GgufTensor tensor(std::uint64_t index) const& { return tensor_(index).value(); }
#if SECUREREG_HAS_EXPECTED
    std::expected<GgufPair, Error> try_pair(std::uint64_t index) const& { return pair_(index).expected(); }
    std::expected<std::optional<GgufPair>, Error> try_find(std::string_view key) const& { return find_(key).expected(); }
    std::expected<std::vector<std::string_view>, Error> try_strings(const GgufPair& pair) const& {
        return strings_(pair).expected();
    }
    std::expected<GgufTensor, Error> try_tensor(std::uint64_t index) const& { return tensor_(index).expected(); }
    void try_pair(std::uint64_t) const&& = delete;
    void try_find(std::string_view) const&& = delete;
    void try_strings(const GgufPair&) const&& = delete;
    void try_tensor(std::uint64_t) const&& = delete;
#endif
    void pair(std::uint64_t) const&& = delete;
    void find(std::string_view) const&& = delete;
    void strings(const GgufPair&) const&& = delete;
    void tensor(std::uint64_t) const&& = delete;

  private:
    friend class Registry;
    explicit Gguf(securereg_gguf raw) noexcept : Owner(raw) {}

    /// Takes the handle over.
    static detail::Result<Gguf> take(securereg_gguf raw) {
        Gguf gguf(raw);
        auto info = detail::got<securereg_gguf_info>(
            [&](auto* out, auto* e) { return ::securereg_gguf_get(raw, out, e); });
        if (info.error()) return *info.error();
        gguf.info_ = *info;
        return gguf;
    }

    detail::Result<GgufPair> pair_(std::uint64_t index) const {
        auto pair = detail::got<securereg_gguf_pair>(
            [&](auto* out, auto* e) { return ::securereg_gguf_pair_at(raw(), index, out, e); });
        if (pair.error()) return *pair.error();
        return made(index, *pair);
    }
    static GgufPair made(std::uint64_t index, const securereg_gguf_pair& from) {
        GgufPair pair;
        pair.index = index;
        pair.key = detail::view(from.key);
        pair.type = static_cast<GgufType>(from.value_type);
        pair.array_type = static_cast<GgufType>(from.array_type);
        pair.count = from.count;
        const auto size = static_cast<std::size_t>(from.data_size);
        switch (pair.type) {
            case GgufType::uint8:
            case GgufType::uint16:
            case GgufType::uint32:
            case GgufType::uint64: pair.value.emplace<std::uint64_t>(from.u64_value); break;
            case GgufType::int8:
            case GgufType::int16:
            case GgufType::int32:
            case GgufType::int64: pair.value.emplace<std::int64_t>(from.i64_value); break;
            case GgufType::float32:
            case GgufType::float64: pair.value.emplace<double>(from.f64_value); break;
            case GgufType::boolean: pair.value.emplace<bool>(from.u64_value != 0); break;
            case GgufType::string: pair.value.emplace<std::string_view>(static_cast<const char*>(from.data), size); break;
            case GgufType::array:
                if (from.data) pair.value.emplace<Bytes>(static_cast<const std::byte*>(from.data), size);
                break;
        }
        return pair;
    }
    detail::Result<std::optional<GgufPair>> find_(std::string_view key) const {
        const detail::CText name("the key", key);
        if (const auto bad = detail::refuse(name)) return *bad;
        auto pair = detail::got<securereg_gguf_pair>(
            [&](auto* out, auto* e) { return ::securereg_gguf_find(raw(), name.get(), out, e); });
        if (!pair.error()) return std::optional<GgufPair>(made((*pair).index, *pair));
        if (pair.error()->status() == Status::not_found) return std::optional<GgufPair>();
        return *pair.error();
    }
    detail::Result<std::vector<std::string_view>> strings_(const GgufPair& pair) const {
        std::vector<std::string_view> strings;
        if (pair.type != GgufType::array || pair.array_type != GgufType::string)
            return Error(Status::invalid_input, std::string(pair.key) + " is no array of strings");
        strings.reserve(static_cast<std::size_t>(pair.count));
        for (std::uint64_t at = 0; at < pair.count; ++at) {
            std::size_t size = 0;
            auto data = detail::got<const char*>(
                [&](auto* out, auto* e) { return ::securereg_gguf_string(raw(), pair.index, at, out, &size, e); });
            if (data.error()) return *data.error();
            strings.emplace_back(*data, size);
        }
        return strings;
    }
    detail::Result<GgufTensor> tensor_(std::uint64_t index) const {
        auto got = detail::got<securereg_gguf_tensor>(
            [&](auto* out, auto* e) { return ::securereg_gguf_tensor_at(raw(), index, out, e); });
        if (got.error()) return *got.error();
        const securereg_gguf_tensor& from = *got;
        GgufTensor tensor;
        tensor.name = detail::view(from.name);
        tensor.type_name = detail::view(from.type_name);
        tensor.type_id = from.type_id;
        tensor.dimensions.assign(from.dimensions, from.dimensions + from.dimension_count);
        tensor.offset = from.offset;
        tensor.size_bytes = from.size_bytes;
        return tensor;
    }

    securereg_gguf_info info_{};
};

/// How a registry is opened.
enum class Mode : std::uint32_t {
    read = 0,                      ///< nothing is written to the root, not even a lock file
    write = SECUREREG_OPEN_WRITE,  ///< change what is there, too
    create = SECUREREG_OPEN_WRITE | SECUREREG_OPEN_CREATE,  ///< make the registry where there is none
};

/// What is claimed of a source, and how it is taken in.
struct PromoteOptions {
    std::optional<std::string> sha256;    ///< it must have: 64 hex digits, of several files that of their list
    std::optional<std::string> format;    ///< it must have: "gguf", "safetensors", "pytorch" or "onnx"
    std::optional<std::string> filename;  ///< in the mount, for a single file
    std::optional<std::string> source;    ///< where it came from, in words
    std::optional<std::string> evidence;  ///< a JSON object that is kept with it as it is
    std::uint64_t size_bytes = 0;         ///< it must have; 0 claims nothing
    bool move = false;                    ///< the source is given away
};

/// What a promotion did to its name.
enum class Outcome : std::uint32_t {
    promoted = SECUREREG_OUTCOME_PROMOTED,
    already_there = SECUREREG_OUTCOME_ALREADY_THERE,
    moved = SECUREREG_OUTCOME_MOVED,  ///< a tag points to new content, or damaged bytes were replaced by good ones
};

/// How a promotion took the bytes in.
enum class Method : std::uint32_t {
    shared = SECUREREG_METHOD_SHARED,  ///< they were there already
    adopted = SECUREREG_METHOD_ADOPTED,
    reflinked = SECUREREG_METHOD_REFLINKED,
    copied = SECUREREG_METHOD_COPIED,
};

/// What a promotion did.
struct Promotion {
    Model model;
    Outcome outcome{};
    Method method{};
};

/// An open registry. What each call does and how it may fail is told at its namesake in securereg.h.
class Registry : public detail::Owner<securereg_registry, ::securereg_close> {
    using Text = std::string_view;
    using OptionalText = std::optional<std::string_view>;

  public:
    Registry() noexcept = default;

    /// Opens the registry at the folder `root`; without one, this user's.
    static Registry open(OptionalText root = std::nullopt, Mode mode = Mode::read) { return open_(root, mode).value(); }

    /// Counts up with each change, by whatever process.
    std::uint64_t generation() const { return generation_().value(); }
    /// All models, quarantined ones too, sorted by name, as they are this moment.
    std::vector<Model> models() const { return models_().value(); }
    /// The model `name`, quarantined or not, as it is this moment.
    Model lookup(Text name) const { return lookup_(name).value(); }
    /// Everything that is recorded of a model, as the JSON of the HTTP API.
    std::string describe(Text name) const { return describe_(name).value(); }
    /// Where a live mount shows a model.
    std::string mount_path(Text name) const { return mount_path_(name).value(); }

    /// Takes the file, folder or first shard at `path` in as the model `name`. Synced to disk when it returns.
    Promotion promote(Text path, Text name, const PromoteOptions& options = {}, const Progress& progress = {}) const {
        return promote_(path, name, options, progress).value();
    }
    /// Hashes every byte of a model, from the disk; returns only if all are what was promoted.
    void verify(Text name, const Progress& progress = {}) const { verify_(name, progress).value(); }
    /// The same of every model.
    void verify_all(const Progress& progress = {}) const { verify_all_(progress).value(); }
    /// The result of the last verification of all models, as JSON. Status::not_found when none has run yet.
    std::string integrity() const { return integrity_().value(); }
    /// Takes a model out of service, everywhere.
    void quarantine(Text name, Text reason, OptionalText incident_id = std::nullopt) const {
        quarantine_(name, reason, incident_id).value();
    }
    /// Verifies a model and, if every byte is good, lifts its quarantine.
    void release(Text name, Text reason, const Progress& progress = {}) const { release_(name, reason, progress).value(); }
    /// Removes a model, and the bytes that no other holds.
    void remove(Text name) const { remove_(name).value(); }

    /// Opens a file of a promoted model for verified reads; without a path, its only one.
    File open_file(Text name, OptionalText path = std::nullopt) const { return open_file_(name, path).value(); }
    /// Puts a file of a promoted model into sealed memory; without a path, its only one.
    Sealed open_sealed(Text name, OptionalText path = std::nullopt, const Progress& progress = {}) const {
        return open_sealed_(name, path, progress).value();
    }
    /// Reads the header of a GGUF file of a promoted model; without a path, of its only one.
    Gguf open_gguf(Text name, OptionalText path = std::nullopt) const { return open_gguf_(name, path).value(); }
    /// Subscribes to what changes from now on.
    Events events() const { return events_().value(); }

#if SECUREREG_HAS_EXPECTED
    static std::expected<Registry, Error> try_open(OptionalText root = std::nullopt, Mode mode = Mode::read) {
        return open_(root, mode).expected();
    }
    std::expected<std::uint64_t, Error> try_generation() const { return generation_().expected(); }
    std::expected<std::vector<Model>, Error> try_models() const { return models_().expected(); }
    std::expected<Model, Error> try_lookup(Text name) const { return lookup_(name).expected(); }
    std::expected<std::string, Error> try_describe(Text name) const { return describe_(name).expected(); }
    std::expected<std::string, Error> try_mount_path(Text name) const { return mount_path_(name).expected(); }
    std::expected<Promotion, Error> try_promote(Text path, Text name, const PromoteOptions& options = {},
                                                const Progress& progress = {}) const {
        return promote_(path, name, options, progress).expected();
    }
    std::expected<void, Error> try_verify(Text name, const Progress& progress = {}) const {
        return verify_(name, progress).expected();
    }
    std::expected<void, Error> try_verify_all(const Progress& progress = {}) const {
        return verify_all_(progress).expected();
    }
    std::expected<std::string, Error> try_integrity() const { return integrity_().expected(); }
    std::expected<void, Error> try_quarantine(Text name, Text reason, OptionalText incident_id = std::nullopt) const {
        return quarantine_(name, reason, incident_id).expected();
    }
    std::expected<void, Error> try_release(Text name, Text reason, const Progress& progress = {}) const {
        return release_(name, reason, progress).expected();
    }
    std::expected<void, Error> try_remove(Text name) const { return remove_(name).expected(); }
    std::expected<File, Error> try_open_file(Text name, OptionalText path = std::nullopt) const {
        return open_file_(name, path).expected();
    }
    std::expected<Sealed, Error> try_open_sealed(Text name, OptionalText path = std::nullopt,
                                                 const Progress& progress = {}) const {
        return open_sealed_(name, path, progress).expected();
    }
    std::expected<Gguf, Error> try_open_gguf(Text name, OptionalText path = std::nullopt) const {
        return open_gguf_(name, path).expected();
    }
    std::expected<Events, Error> try_events() const { return events_().expected(); }
#endif

  private:
    template <class T>
    using Result = detail::Result<T>;
    using Done = detail::Done;
    using CText = detail::CText;

    explicit Registry(securereg_registry raw) noexcept : Owner(raw) {}

    static Result<Registry> open_(OptionalText root, Mode mode) {
        const CText c_root("the root", root);
        if (const auto bad = detail::refuse(c_root)) return *bad;
        securereg_open_options options{};
        options.size = sizeof options;
        options.flags = static_cast<std::uint32_t>(mode);
        auto raw = detail::got<securereg_registry>(
            [&](auto* out, auto* e) { return ::securereg_open(c_root.get(), &options, out, e); });
        if (raw.error()) return *raw.error();
        return Registry(*raw);
    }
    Result<std::uint64_t> generation_() const {
        return detail::got<std::uint64_t>([&](auto* out, auto* e) { return ::securereg_generation(raw(), out, e); });
    }
    Result<std::vector<Model>> models_() const {
        auto raw_list = detail::got<securereg_list>(
            [&](auto* out, auto* e) { return ::securereg_list_models(raw(), out, e); });
        if (raw_list.error()) return *raw_list.error();
        const detail::Owner<securereg_list, ::securereg_list_free> list(*raw_list);
        auto count = detail::got<std::uint64_t>(
            [&](auto* out, auto* e) { return ::securereg_list_count(list.raw(), out, e); });
        if (count.error()) return *count.error();
        std::vector<Model> models;
        models.reserve(static_cast<std::size_t>(*count));
        for (std::uint64_t at = 0; at < *count; ++at) {
            auto model = model_of([&](auto* out, auto* e) { return ::securereg_list_at(list.raw(), at, out, e); });
            if (model.error()) return *model.error();
            models.push_back(std::move(*model));
        }
        return models;
    }
    template <class Call>
    static Result<Model> model_of(Call&& call) {
        auto model = detail::got<securereg_model>(call);
        if (model.error()) return *model.error();
        return Model::take(*model);
    }
    Result<Model> lookup_(Text name) const {
        const CText c_name("the name", name);
        if (const auto bad = detail::refuse(c_name)) return *bad;
        return model_of([&](auto* out, auto* e) { return ::securereg_lookup(raw(), c_name.get(), out, e); });
    }
    Result<std::string> describe_(Text name) const {
        const CText c_name("the name", name);
        if (const auto bad = detail::refuse(c_name)) return *bad;
        return detail::text([&](auto* out, auto* e) { return ::securereg_describe(raw(), c_name.get(), out, e); });
    }
    Result<std::string> mount_path_(Text name) const {
        const CText c_name("the name", name);
        if (const auto bad = detail::refuse(c_name)) return *bad;
        return detail::text([&](auto* out, auto* e) { return ::securereg_mount_path(raw(), c_name.get(), out, e); });
    }
    Result<std::string> integrity_() const {
        return detail::text([&](auto* out, auto* e) { return ::securereg_integrity(raw(), out, e); });
    }

    Result<Promotion> promote_(Text path, Text name, const PromoteOptions& from, const Progress& progress) const {
        const CText c_path("the path", path), c_name("the name", name), sha256("options.sha256", from.sha256),
            format("options.format", from.format), filename("options.filename", from.filename),
            source("options.source", from.source), evidence("options.evidence", from.evidence);
        if (const auto bad = detail::refuse(c_path, c_name, sha256, format, filename, source, evidence)) return *bad;
        securereg_promote_options options{};
        options.size = sizeof options;
        options.sha256 = sha256.get();
        options.format = format.get();
        options.filename = filename.get();
        options.source = source.get();
        options.evidence = evidence.get();
        options.size_bytes = from.size_bytes;
        options.flags = from.move ? SECUREREG_PROMOTE_MOVE : 0;
        securereg_promotion result{};
        result.size = sizeof result;
        detail::Watch watch(progress);
        auto model = model_of([&](auto* out, auto* e) {
            return ::securereg_promote(raw(), c_path.get(), c_name.get(), &options, watch.task(), &result, out, e);
        });
        watch.rethrow();
        if (model.error()) return *model.error();
        return Promotion{std::move(*model), static_cast<Outcome>(result.outcome), static_cast<Method>(result.method)};
    }
    Result<Done> verify_(Text name, const Progress& progress) const {
        const CText c_name("the name", name);
        if (const auto bad = detail::refuse(c_name)) return *bad;
        detail::Watch watch(progress);
        auto done = detail::run(
            [&](auto* e) { return ::securereg_verify(raw(), c_name.get(), watch.task(), e); });
        watch.rethrow();
        return done;
    }
    Result<Done> verify_all_(const Progress& progress) const {
        detail::Watch watch(progress);
        auto done = detail::run([&](auto* e) { return ::securereg_verify_all(raw(), watch.task(), e); });
        watch.rethrow();
        return done;
    }
    Result<Done> quarantine_(Text name, Text reason, OptionalText incident_id) const {
        const CText c_name("the name", name), c_reason("the reason", reason), incident("the incident", incident_id);
        if (const auto bad = detail::refuse(c_name, c_reason, incident)) return *bad;
        return detail::run([&](auto* e) {
            return ::securereg_quarantine(raw(), c_name.get(), c_reason.get(), incident.get(), e);
        });
    }
    Result<Done> release_(Text name, Text reason, const Progress& progress) const {
        const CText c_name("the name", name), c_reason("the reason", reason);
        if (const auto bad = detail::refuse(c_name, c_reason)) return *bad;
        detail::Watch watch(progress);
        auto done = detail::run([&](auto* e) {
            return ::securereg_release(raw(), c_name.get(), c_reason.get(), watch.task(), e);
        });
        watch.rethrow();
        return done;
    }
    Result<Done> remove_(Text name) const {
        const CText c_name("the name", name);
        if (const auto bad = detail::refuse(c_name)) return *bad;
        return detail::run([&](auto* e) { return ::securereg_delete(raw(), c_name.get(), e); });
    }

    Result<File> open_file_(Text name, OptionalText path) const {
        const CText c_name("the name", name), c_path("the path", path);
        if (const auto bad = detail::refuse(c_name, c_path)) return *bad;
        auto file = detail::got<securereg_file>(
            [&](auto* out, auto* e) { return ::securereg_file_open(raw(), c_name.get(), c_path.get(), out, e); });
        if (file.error()) return *file.error();
        return File(*file);
    }
    Result<Sealed> open_sealed_(Text name, OptionalText path, const Progress& progress) const {
        const CText c_name("the name", name), c_path("the path", path);
        if (const auto bad = detail::refuse(c_name, c_path)) return *bad;
        detail::Watch watch(progress);
        auto got = detail::got<securereg_sealed>([&](auto* out, auto* e) {
            return ::securereg_open_sealed(raw(), c_name.get(), c_path.get(), watch.task(), out, e);
        });
        auto sealed = got.error() ? Result<Sealed>(*got.error()) : Sealed::take(*got);
        watch.rethrow();
        return sealed;
    }
    Result<Gguf> open_gguf_(Text name, OptionalText path) const {
        const CText c_name("the name", name), c_path("the path", path);
        if (const auto bad = detail::refuse(c_name, c_path)) return *bad;
        auto gguf = detail::got<securereg_gguf>(
            [&](auto* out, auto* e) { return ::securereg_gguf_open(raw(), c_name.get(), c_path.get(), out, e); });
        if (gguf.error()) return *gguf.error();
        return Gguf::take(*gguf);
    }
    Result<Events> events_() const {
        auto events = detail::got<securereg_events>(
            [&](auto* out, auto* e) { return ::securereg_events_open(raw(), out, e); });
        if (events.error()) return *events.error();
        return Events::take(*events);
    }
};

}  // namespace securereg

#endif  // SECUREREG_HPP
