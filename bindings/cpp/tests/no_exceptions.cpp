// The header in a program without exceptions: the twins are all it needs. no_exceptions DATA SCRATCH

#include "check.hpp"

static_assert(SECUREREG_HAS_EXPECTED && !SECUREREG_HAS_EXCEPTIONS);

int main(int argc, char** argv) {
    if (argc != 3) return 2;
    const std::string data = argv[1], scratch = argv[2];
    using securereg::Registry, securereg::Status;
    CHECK(Registry::try_open(scratch + "/none").error().status() == Status::not_found);
    const auto registry = Registry::try_open(scratch + "/no-exceptions", securereg::Mode::create);
    CHECK(registry.has_value());
    if (!registry) return check::result("no_exceptions");
    const auto promoted = registry->try_promote(data + "/tiny-llama.gguf", "tiny");
    CHECK(promoted.has_value() && promoted->model.name() == "tiny");
    const securereg::Progress stop = [](securereg::Phase, std::uint64_t, std::uint64_t) { return false; };
    CHECK(registry->try_verify("tiny", stop).error().status() == Status::cancelled);
    const auto file = registry->try_open_file("tiny");
    CHECK(file.has_value() && file->try_read(0, 4).value().size() == 4);
    return check::result("no_exceptions");
}
