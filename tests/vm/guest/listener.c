/* A program on sd-event as anybody would write it: it fills a cache, and drops it when sd_event_add_memory_pressure(3)
 * says so. It is compiled on the host, where the header may be older than the call, and finds libsystemd in the guest.
 *
 *     listener MIB      holds so much until it is told; says "up", and "told N" each time
 */
#include <dlfcn.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct sd_event sd_event;
typedef struct sd_event_source sd_event_source;
typedef int (*handler)(sd_event_source *source, void *userdata);

enum { BLOCK = 64 << 10 };
static char **cache;
static size_t blocks;
static unsigned told;

static int drop(sd_event_source *source, void *userdata) {
    (void)source;
    (void)userdata;
    for (size_t i = 0; i < blocks; i++)
        free(cache[i]);
    blocks = 0;
    malloc_trim(0);
    if (++told < 100) /* one that spins must not fill the journal */
        printf("told %u\n", told);
    return 0;
}

static void *known(void *library, const char *name) {
    void *found = library ? dlsym(library, name) : NULL;
    if (!found) {
        fprintf(stderr, "%s\n", dlerror());
        exit(2);
    }
    return found;
}

int main(int argc, char **argv) {
    void *library = dlopen("libsystemd.so.0", RTLD_NOW);
    int (*new_event)(sd_event **) = known(library, "sd_event_default");
    int (*add)(sd_event *, sd_event_source **, handler, void *) = known(library, "sd_event_add_memory_pressure");
    int (*loop)(sd_event *) = known(library, "sd_event_loop");
    size_t wanted = (size_t)(argc > 1 ? atoi(argv[1]) : 0) * (1 << 20) / BLOCK;
    sd_event *event = NULL;

    setvbuf(stdout, NULL, _IOLBF, 0);
    cache = calloc(wanted + 1, sizeof *cache);
    for (; blocks < wanted; blocks++)
        memset(cache[blocks] = malloc(BLOCK), 1, BLOCK);
    int error = new_event(&event);
    if (error >= 0)
        error = add(event, NULL, drop, NULL);
    if (error < 0) {
        fprintf(stderr, "sd_event_add_memory_pressure: %s\n", strerror(-error));
        return 1;
    }
    printf("up\n");
    error = loop(event);
    fprintf(stderr, "the loop has ended: %s\n", strerror(-error));
    return 1;
}
