//! System calls: seccomp.
//!
//! Owns: the list of those that a daemon makes, and of those that nothing in it has a reason to make. Promises: every thread is bound,
//! those that run already too. A call of the second list ends the process at once, and the kernel's log names it (type 1326, `syscall=`):
//! whoever makes it is not our code any more. A call of neither list is refused with EPERM, so that a newer C library falls back on what it
//! did before. clone3 is "not there", because what it asks for cannot be seen; the C library then calls clone, which may start
//! threads and nothing else. Leaves out: which files and ports (`files`).

use crate::Network;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter_all_threads,
};
use std::collections::BTreeMap;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Everything a daemon does with files, memory, threads, time and open descriptors.
const USUAL: &[i64] = &[
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_brk,
    libc::SYS_capget,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_clone3,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_connect,
    libc::SYS_copy_file_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fadvise64,
    libc::SYS_fallocate,
    libc::SYS_fanotify_init,
    libc::SYS_fanotify_mark,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchmodat2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_futex,
    libc::SYS_futex_waitv,
    libc::SYS_getcpu,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getgroups,
    libc::SYS_getpeername,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getpriority,
    libc::SYS_getrandom,
    libc::SYS_getresgid,
    libc::SYS_getresuid,
    libc::SYS_getrusage,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_getuid,
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_init1,
    libc::SYS_inotify_rm_watch,
    libc::SYS_ioprio_get,
    libc::SYS_ioprio_set,
    libc::SYS_linkat,
    libc::SYS_listen,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_memfd_create,
    libc::SYS_mincore,
    libc::SYS_mkdirat,
    libc::SYS_mlock,
    libc::SYS_mremap,
    libc::SYS_msync,
    libc::SYS_munlock,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    libc::SYS_prctl,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_prlimit64,
    libc::SYS_pselect6,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_read,
    libc::SYS_readahead,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmmsg,
    libc::SYS_recvmsg,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_sendfile,
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_set_robust_list,
    libc::SYS_setpriority,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_sigaltstack,
    libc::SYS_splice,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_sync_file_range,
    libc::SYS_syncfs,
    libc::SYS_sysinfo,
    libc::SYS_tgkill,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_gettime,
    libc::SYS_timerfd_settime,
    libc::SYS_umask,
    libc::SYS_uname,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
    libc::SYS_wait4,
    libc::SYS_waitid,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Older names of the same, which newer machines do not have.
#[cfg(target_arch = "x86_64")]
const OLDER: &[i64] = &[
    libc::SYS_accept,
    libc::SYS_access,
    libc::SYS_arch_prctl,
    libc::SYS_chmod,
    libc::SYS_dup2,
    libc::SYS_epoll_wait,
    libc::SYS_getdents,
    libc::SYS_getrlimit,
    libc::SYS_link,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_open,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_rmdir,
    libc::SYS_select,
    libc::SYS_stat,
    libc::SYS_time,
    libc::SYS_unlink,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[i64] = &[];

/// What only an intruder calls.
const NEVER: &[i64] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_adjtimex,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_personality,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setdomainname,
    libc::SYS_setgid,
    libc::SYS_setgroups,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_setresgid,
    libc::SYS_setresuid,
    libc::SYS_settimeofday,
    libc::SYS_setuid,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
];

/// What the process that unmounts does until it is told to, and then. `execve` is over by then.
const DETACHING: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_capget,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_futex,
    libc::SYS_geteuid,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_ppoll,
    libc::SYS_read,
    libc::SYS_recvfrom,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sendto,
    libc::SYS_sigaltstack,
    libc::SYS_statx,
    libc::SYS_umount2,
    libc::SYS_unlinkat,
    libc::SYS_write,
    libc::SYS_writev,
];
#[cfg(target_arch = "x86_64")]
const DETACHING_OLDER: &[i64] = &[libc::SYS_poll, libc::SYS_rmdir];
#[cfg(not(target_arch = "x86_64"))]
const DETACHING_OLDER: &[i64] = &[];

/// Every ioctl of the core, of fuser and of the standard library, by its number on all Linux machines that this is built for: flags of
/// files, clones of them, terminals' settings and sizes, blocking or not. TIOCSTI and its like are not among them.
const IOCTLS: [u64; 9] = [0x8008_6601, 0x4008_6602, 0x4004_9409, 0x5401, 0x5413, 0x541b, 0x5421, 0x5450, 0x5451];

/// What a thread is made with (clone(2)), and what would make a namespace.
const CLONE_THREAD: u64 = 0x0001_0000;
const CLONE_NEW: u64 = 0x7e02_0080;

/// Filters the calls of all threads of a daemon that reaches as far as `network`.
pub(crate) fn filter(network: &Network) -> Result<(), String> {
    let mut allowed: Rules = USUAL.iter().chain(OLDER).map(|call| (*call, Vec::new())).collect();
    allowed.insert(libc::SYS_ioctl, each(1, &IOCTLS)?);
    let thread = masked(0, CLONE_THREAD | CLONE_NEW, CLONE_THREAD)?;
    allowed.insert(libc::SYS_clone, vec![rule(vec![thread])?]);
    allowed.insert(libc::SYS_socketpair, each(0, &[libc::AF_UNIX as u64])?);
    allowed.insert(libc::SYS_socket, sockets(network)?);
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        allowed.insert(call, code(network)?);
    }
    // Of the filters that a call meets the strictest decides, and of two that refuse it the newest.
    apply(never(NEVER), SeccompAction::Allow, SeccompAction::KillProcess)?;
    apply(never(&[libc::SYS_clone3]), SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS as u32))?;
    apply(allowed, SeccompAction::Errno(libc::EPERM as u32), SeccompAction::Allow)
}

/// Filters the calls of the process that unmounts.
pub(crate) fn filter_detacher() -> Result<(), String> {
    let allowed = DETACHING.iter().chain(DETACHING_OLDER).map(|call| (*call, Vec::new())).collect();
    apply(allowed, SeccompAction::Errno(libc::EPERM as u32), SeccompAction::Allow)
}

fn never(calls: &[i64]) -> Rules {
    calls.iter().map(|call| (*call, Vec::new())).collect()
}

fn apply(rules: Rules, others: SeccompAction, these: SeccompAction) -> Result<(), String> {
    let here = std::env::consts::ARCH.try_into().map_err(|_| format!("no filter for {}", std::env::consts::ARCH))?;
    let filter = SeccompFilter::new(rules, others, these, here).map_err(|e| e.to_string())?;
    let program: BpfProgram = filter.try_into().map_err(|e: seccompiler::BackendError| e.to_string())?;
    apply_filter_all_threads(&program).map_err(|e| e.to_string())
}

/// Which sockets may be made. Landlock says which ports.
fn sockets(network: &Network) -> Result<Vec<SeccompRule>, String> {
    let mut rules = each(0, &[libc::AF_UNIX as u64])?;
    let internet = [libc::AF_INET as u64, libc::AF_INET6 as u64];
    match network {
        Network::None => {}
        Network::Listens(_) => {
            for family in internet {
                // Without the flags of the type: close-on-exec and non-blocking.
                rules.push(rule(vec![is(0, family)?, masked(1, 0xf, libc::SOCK_STREAM as u64)?])?);
            }
        }
        Network::Connects { .. } => {
            rules.extend(each(0, &internet)?);
            // By it the C library asks which addresses the machine has.
            rules.push(rule(vec![is(0, libc::AF_NETLINK as u64)?, is(2, libc::NETLINK_ROUTE as u64)?])?);
        }
    }
    Ok(rules)
}

/// Memory that is never run, or, where names are looked up (whose modules are loaded then), never run and written at once.
fn code(network: &Network) -> Result<Vec<SeccompRule>, String> {
    let (exec, write) = (libc::PROT_EXEC as u64, libc::PROT_WRITE as u64);
    let data = rule(vec![masked(2, exec, 0)?])?;
    match network {
        Network::None | Network::Listens(_) => Ok(vec![data]),
        Network::Connects { .. } => Ok(vec![data, rule(vec![masked(2, write, 0)?])?]),
    }
}

fn each(argument: u8, values: &[u64]) -> Result<Vec<SeccompRule>, String> {
    values.iter().map(|value| rule(vec![is(argument, *value)?])).collect()
}

fn rule(conditions: Vec<SeccompCondition>) -> Result<SeccompRule, String> {
    SeccompRule::new(conditions).map_err(|e| e.to_string())
}

fn is(argument: u8, value: u64) -> Result<SeccompCondition, String> {
    // The kernel takes the lower half of each of these.
    condition(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
}

fn masked(argument: u8, mask: u64, value: u64) -> Result<SeccompCondition, String> {
    condition(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(mask), value)
}

fn condition(
    argument: u8,
    len: SeccompCmpArgLen,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, String> {
    SeccompCondition::new(argument, len, operator, value).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_call_is_both_usual_and_never_made() {
        for call in NEVER {
            assert!(!USUAL.contains(call) && !OLDER.contains(call), "{call}");
        }
    }
}
