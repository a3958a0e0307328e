/* LD_PRELOAD into the daemons where this machine's name isn't a loopback address: Slurm can listen on the address of
   that name, or on every address, and on nothing else. A socket bound to every address is bound to 127.0.0.1 instead.
   cc -shared -fPIC -O2 -o loopback.so loopback.c -ldl */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

int bind(int fd, const struct sockaddr *address, socklen_t length) {
    int (*real)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "bind");
    if (address && address->sa_family == AF_INET && length >= sizeof(struct sockaddr_in)) {
        struct sockaddr_in here;
        memcpy(&here, address, sizeof here);
        if (here.sin_addr.s_addr == htonl(INADDR_ANY)) {
            here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
            return real(fd, (struct sockaddr *)&here, sizeof here);
        }
    }
    return real(fd, address, length);
}
