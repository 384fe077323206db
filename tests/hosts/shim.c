/* Makes one process tree live on a host that refuses services of the C library.
 *
 * Preloaded (LD_PRELOAD), it reads the variable REFUSE: words SERVICE=ERRNO or SERVICE=ERRNO@N, separated by
 * spaces.
 *
 *     REFUSE="sem_open=ENOSYS fork=EAGAIN@2 pthread_create=EAGAIN sysconf_sem=EPERM"
 *
 * From the N-th call on (default: the first) the service fails with that error. Services:
 *
 *     sem_open        named semaphores
 *     fork            what makes a process: fork, vfork, forkpty, posix_spawn, posix_spawnp, system; one counter
 *     pthread_create  threads
 *     sysconf_sem     sysconf(_SC_SEM_NSEMS_MAX), and no other sysconf
 *
 * The counters live in the memory of the process: a forked child goes on from its parent's, an exec'd program
 * starts at zero. A REFUSE that cannot be read ends the program with status 127, as a host that is healthy by a
 * typing error would let every test pass.
 *
 * No supported interpreter imports _Fork, clone or popen (objdump -T), so these are left alone.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <pty.h>
#include <semaphore.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SEM_OPEN, FORK, PTHREAD_CREATE, SYSCONF_SEM, SERVICES };

static struct {
    const char *name;
    int error;
    long first;
    atomic_long calls;
} services[SERVICES] = {
    [SEM_OPEN] = {.name = "sem_open"},
    [FORK] = {.name = "fork"},
    [PTHREAD_CREATE] = {.name = "pthread_create"},
    [SYSCONF_SEM] = {.name = "sysconf_sem"},
};

static const struct {
    const char *name;
    int error;
} errors[] = {
    {"EACCES", EACCES}, {"EAGAIN", EAGAIN}, {"EMFILE", EMFILE}, {"ENFILE", ENFILE}, {"ENOENT", ENOENT},
    {"ENOMEM", ENOMEM}, {"ENOSPC", ENOSPC}, {"ENOSYS", ENOSYS}, {"EPERM", EPERM},   {"EROFS", EROFS},
};

static sem_t *(*real_sem_open)(const char *, int, ...);
static pid_t (*real_fork)(void);
static pid_t (*real_forkpty)(int *, char *, const struct termios *, const struct winsize *);
static __typeof__(&posix_spawn) real_posix_spawn;
static __typeof__(&posix_spawnp) real_posix_spawnp;
static __typeof__(&system) real_system;
static __typeof__(&pthread_create) real_pthread_create;
static __typeof__(&sysconf) real_sysconf;

static void give_up(const char *word)
{
    dprintf(STDERR_FILENO, "REFUSE: cannot read %s; expected SERVICE=ERRNO or SERVICE=ERRNO@N\n", word);
    _exit(127);
}

static void read_word(char *word)
{
    char name[32], error[32];
    long first = 1;
    int length = 0, which = 0;
    size_t number = 0;

    if (sscanf(word, "%31[a-z_]=%31[A-Z]%n", name, error, &length) != 2)
        give_up(word);
    if (word[length] == '@') {
        char *end;
        first = strtol(word + length + 1, &end, 10);
        if (first < 1 || *end)
            give_up(word);
    } else if (word[length]) {
        give_up(word);
    }
    while (which < SERVICES && strcmp(services[which].name, name))
        which++;
    while (number < sizeof errors / sizeof *errors && strcmp(errors[number].name, error))
        number++;
    if (which == SERVICES || number == sizeof errors / sizeof *errors)
        give_up(word);
    services[which].error = errors[number].error;
    services[which].first = first;
}

static void prepare(void)
{
    const char *value = getenv("REFUSE");
    char *rest, *words = strdup(value ? value : "");

    for (char *word = strtok_r(words, " ", &rest); word; word = strtok_r(NULL, " ", &rest))
        read_word(word);
    free(words);
    real_sem_open = dlsym(RTLD_NEXT, "sem_open");
    real_fork = dlsym(RTLD_NEXT, "fork");
    real_forkpty = dlsym(RTLD_NEXT, "forkpty");
    real_posix_spawn = dlsym(RTLD_NEXT, "posix_spawn");
    real_posix_spawnp = dlsym(RTLD_NEXT, "posix_spawnp");
    real_system = dlsym(RTLD_NEXT, "system");
    real_pthread_create = dlsym(RTLD_NEXT, "pthread_create");
    real_sysconf = dlsym(RTLD_NEXT, "sysconf");
}

/* The constructor alone would be too late for the constructors of other libraries, some of which call sysconf. */
__attribute__((constructor)) static void prepare_once(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, prepare);
}

static int refusal(int which)
{
    prepare_once();
    if (!services[which].error)
        return 0;
    long call = atomic_fetch_add(&services[which].calls, 1) + 1;
    return call >= services[which].first ? services[which].error : 0;
}

static int refused(int which)
{
    int error = refusal(which);
    if (error)
        errno = error;
    return error;
}

sem_t *sem_open(const char *name, int flags, ...)
{
    if (refused(SEM_OPEN))
        return SEM_FAILED;
    if (!(flags & O_CREAT))
        return real_sem_open(name, flags);
    va_list more;
    va_start(more, flags);
    mode_t mode = va_arg(more, mode_t);
    unsigned int value = va_arg(more, unsigned int);
    va_end(more);
    return real_sem_open(name, flags, mode, value);
}

pid_t fork(void)
{
    return refused(FORK) ? -1 : real_fork();
}

/* A child of vfork runs on its parent's stack, and returning from this function would overwrite the frame into
 * which the parent has yet to return. A wrapper therefore cannot call vfork; fork does what its callers need, only
 * slower. */
pid_t vfork(void)
{
    return fork();
}

pid_t forkpty(int *master, char *name, const struct termios *termios, const struct winsize *size)
{
    return refused(FORK) ? -1 : real_forkpty(master, name, termios, size);
}

int posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,
                const posix_spawnattr_t *attributes, char *const argv[], char *const env[])
{
    int error = refusal(FORK);
    return error ? error : real_posix_spawn(pid, path, actions, attributes, argv, env);
}

int posix_spawnp(pid_t *pid, const char *file, const posix_spawn_file_actions_t *actions,
                 const posix_spawnattr_t *attributes, char *const argv[], char *const env[])
{
    int error = refusal(FORK);
    return error ? error : real_posix_spawnp(pid, file, actions, attributes, argv, env);
}

int system(const char *command)
{
    return refused(FORK) ? -1 : real_system(command);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *),
                   void *argument)
{
    int error = refusal(PTHREAD_CREATE);
    return error ? error : real_pthread_create(thread, attributes, start, argument);
}

long sysconf(int name)
{
    prepare_once();
    return name == _SC_SEM_NSEMS_MAX && refused(SYSCONF_SEM) ? -1 : real_sysconf(name);
}
