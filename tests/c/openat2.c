/* openat2.c: the system call openat2 for a valgrind that does not know it (Debian 12's 3.19), by LD_PRELOAD.
 *
 * Owns: `syscall`, for a library that asks libc for its system calls (--cfg rustix_use_libc). Under valgrind only: openat
 * opens the same paths, but would follow a link where RESOLVE_NO_SYMLINKS forbids it. That is tested without valgrind.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdarg.h>
#include <sys/syscall.h>

long syscall(long number, ...) {
    static long (*real)(long, ...);
    va_list values;
    long a[6];
    va_start(values, number);
    for (int i = 0; i < 6; i++) a[i] = va_arg(values, long);
    va_end(values);
    if (number == SYS_openat2) {
        const struct open_how *how = (const struct open_how *)a[2];
        return openat((int)a[0], (const char *)a[1], (int)how->flags, (mode_t)how->mode);
    }
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, "syscall");
    return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
