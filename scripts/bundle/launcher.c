/* What the node runs: starts the interpreter of the bundle with the bundle's own C library.
 *
 * An ordinary executable names its dynamic linker by an absolute path and takes the node's libraries. A node may
 * have neither, or older ones. So this one is linked statically, finds its directory, and runs
 *
 *     DIR/lib/ld.so --library-path DIR/lib --argv0 NAME DIR/lib/interpreter ARGUMENTS...
 *
 * The name by which it was called (capture-cni, istio-init, capture) says which program is meant.
 * Nothing is read from the environment.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

static int fail(const char *what, const char *path)
{
    fprintf(stderr, "error: %s %s: %s\n  The bundle is incomplete; install it again.\n", what, path, strerror(errno));
    return 1;
}

int main(int argc, char **argv, char **environment)
{
    const char *called = (const char *)getauxval(AT_EXECFN);
    char self[PATH_MAX], linker[PATH_MAX + 16], library[PATH_MAX + 16], interpreter[PATH_MAX + 32];
    const char *name;
    char **arguments;

    if (!called || !realpath(called, self))
        return fail("cannot find", called ? called : "myself");
    *strrchr(self, '/') = '\0';
    snprintf(linker, sizeof linker, "%s/lib/ld.so", self);
    snprintf(library, sizeof library, "%s/lib", self);
    snprintf(interpreter, sizeof interpreter, "%s/lib/interpreter", self);

    name = strrchr(called, '/');
    name = name ? name + 1 : called;
    arguments = calloc((size_t)argc + 7, sizeof *arguments);
    if (!arguments)
        return fail("no memory to start", name);
    arguments[0] = linker;
    arguments[1] = "--library-path";
    arguments[2] = library;
    arguments[3] = "--argv0";
    arguments[4] = (char *)name;
    arguments[5] = interpreter;
    for (int i = 1; i < argc; i++)
        arguments[5 + i] = argv[i];
    execve(linker, arguments, environment);
    return fail("cannot start", linker);
}
