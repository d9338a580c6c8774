// The tests' own checks: CHECK counts, and a test that ran none has failed.

#ifndef CHECK_HPP
#define CHECK_HPP

#include "securereg.hpp"

#include <cstdio>
#include <string>

namespace check {

inline int passed = 0;
inline int failed = 0;

inline void that(bool good, const char* what, const char* file, int line) {
    ++(good ? passed : failed);
    if (!good) std::fprintf(stderr, "%s:%d: not so: %s\n", file, line, what);
}

/// Prints the counts; the exit code of main.
inline int result(const char* name) {
    std::printf("%s: %d checks passed, %d failed\n", name, passed, failed);
    return failed == 0 && passed > 0 ? 0 : 1;
}

}  // namespace check

#define CHECK(...) ::check::that(static_cast<bool>(__VA_ARGS__), #__VA_ARGS__, __FILE__, __LINE__)

#if SECUREREG_HAS_EXCEPTIONS
/// The Error that a call throws; one with Status::ok if it throws none.
template <class Call>
securereg::Error thrown_by(Call&& call) {
    try {
        (void)call();
    } catch (const securereg::Error& error) {
        return error;
    }
    return securereg::Error(securereg::Status::ok, "nothing was thrown");
}

#define CHECK_STATUS(word, ...) CHECK(thrown_by([&] { return __VA_ARGS__; }).status() == securereg::Status::word)
#endif

#endif  // CHECK_HPP
