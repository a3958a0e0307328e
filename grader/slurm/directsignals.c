/* LD_PRELOAD into slurmd and so slurmstepd, with proctrack/pgid: whom a job's signals reach is decided as
   proctrack/cgroup does it (proctrack_p_signal there): SIGKILL reaches all, any other signal slurmstepd's children
   only, which are the batch shell and what srun started, and not their children.
   proctrack/pgid asks getpgid(0) just before its killpg. `scancel --full`, which doesn't, reaches the whole group
   under every proctrack.
   cc -shared -fPIC -O2 -o directsignals.so directsignals.c -ldl */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

static __thread int by_proctrack;

static pid_t group_of(pid_t pid) {
    pid_t (*real)(pid_t) = dlsym(RTLD_NEXT, "getpgid");
    return real(pid);
}

pid_t getpgid(pid_t pid) {
    by_proctrack = pid == 0;
    return group_of(pid);
}

int killpg(pid_t group, int number) {
    int (*real)(pid_t, int) = dlsym(RTLD_NEXT, "killpg");
    int to_children_only = by_proctrack && number != 0 && number != SIGKILL;
    by_proctrack = 0;
    DIR *threads = to_children_only ? opendir("/proc/self/task") : NULL;
    if (!threads)
        return real(group, number);
    for (struct dirent *thread; (thread = readdir(threads));) {
        char path[300];
        snprintf(path, sizeof path, "/proc/self/task/%s/children", thread->d_name);
        FILE *children = fopen(path, "r");
        for (int pid; children && fscanf(children, "%d", &pid) == 1;)
            if (group_of(pid) == group)
                kill(pid, number);
        if (children)
            fclose(children);
    }
    closedir(threads);
    return real(group, 0); /* whether anybody is left in it */
}
