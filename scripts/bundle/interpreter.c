/* The Python interpreter of the bundle, with every module that our programs need frozen into it.
 *
 * A frozen module is found in a table of the executable: no directory is searched and no file opened for it.
 * The configuration is that of `python -I -S`: the environment and the user's directories play no role.
 * FROZEN_MODULES, PROGRAMS and their contents are generated (frozen.h).
 */
#define _GNU_SOURCE
#include <Python.h>
#include <sched.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <unistd.h>

#include "frozen.h"

static void check(PyStatus status)
{
    if (PyStatus_Exception(status))
        Py_ExitStatusException(status);
}

/* os.setns(), which Python has from 3.12 on; before, it takes ctypes and libffi to call setns(2). */
static PyObject *call_setns(PyObject *self, PyObject *args)
{
    int descriptor, kind;
    (void)self;
    if (!PyArg_ParseTuple(args, "ii:setns", &descriptor, &kind))
        return NULL;
    if (setns(descriptor, kind) == -1)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

static PyMethodDef METHODS[] = {{"setns", call_setns, METH_VARARGS, NULL}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, .m_name = "bundle_calls", .m_size = 0, .m_methods = METHODS};

static PyObject *make_calls(void)
{
    return PyModule_Create(&MODULE);
}

/* Python's own code and types are counted objects in the data of this executable, of which nearly every page is
 * written to as it starts. Copying them all at once saves some 300 page faults, half a millisecond in a virtual
 * machine. A kernel before 5.14 does not know the advice; then pages come one by one.
 */
static void copy_data_at_once(void)
{
#ifdef MADV_POPULATE_WRITE
    extern char __data_start, _edata; /* set by the linker */
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t start = (uintptr_t)&__data_start & ~(page - 1);
    uintptr_t end = ((uintptr_t)&_edata + page - 1) & ~(page - 1);
    madvise((void *)start, end - start, MADV_POPULATE_WRITE);
#endif
}

/* Memory for Python's objects comes from the kernel in pages of 2 MB where it has them (/sys/kernel/mm/
 * transparent_hugepage/enabled: "madvise" or "always"): one page fault instead of 512. Python requests 1 MB at a time.
 */
#define HUGE_PAGE ((uintptr_t)2 << 20)
static char *next_arena, *end_of_page;

static void *new_arena(void *context, size_t size)
{
    char *arena;
    (void)context;
    if (size > HUGE_PAGE)
        return NULL;
    if ((size_t)(end_of_page - next_arena) < size) {
        char *space = mmap(NULL, 2 * HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (space == MAP_FAILED)
            return NULL;
        next_arena = (char *)(((uintptr_t)space + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1));
        end_of_page = next_arena + HUGE_PAGE;
        if (next_arena > space)
            munmap(space, (size_t)(next_arena - space));
        if (end_of_page < space + 2 * HUGE_PAGE)
            munmap(end_of_page, (size_t)(space + 2 * HUGE_PAGE - end_of_page));
        madvise(next_arena, HUGE_PAGE, MADV_HUGEPAGE);
    }
    arena = next_arena;
    next_arena += size;
    return arena;
}

static void free_arena(void *context, void *arena, size_t size)
{
    (void)context;
    munmap(arena, size);
}

static const char *entry_module(const char *name)
{
    for (const struct program *program = PROGRAMS; program->name; program++)
        if (strcmp(program->name, name) == 0)
            return program->module;
    return NULL;
}

/* The directory of this executable's extension modules: LIB/dynload, where LIB is given by the dynamic linker. */
static wchar_t *extension_directory(const char *executable)
{
    char path[4096];
    const char *slash = strrchr(executable, '/');
    int length = slash ? (int)(slash - executable) : 1;
    snprintf(path, sizeof path, "%.*s/dynload", length, slash ? executable : ".");
    return Py_DecodeLocale(path, NULL);
}

static void configure(PyConfig *config, int argc, char **argv, const char *executable)
{
    wchar_t *extensions = extension_directory(executable);
    const wchar_t *nowhere = L"/nonexistent";

    PyConfig_InitIsolatedConfig(config);
    config->site_import = 0;
    config->write_bytecode = 0;
    config->pathconfig_warnings = 0;
    config->parse_argv = 0;
    config->install_signal_handlers = 1;
    config->module_search_paths_set = 1;
    check(PyWideStringList_Append(&config->module_search_paths, extensions));
    check(PyConfig_SetBytesArgv(config, argc, argv));
    check(PyConfig_SetString(config, &config->home, nowhere));
    check(PyConfig_SetString(config, &config->prefix, nowhere));
    check(PyConfig_SetString(config, &config->exec_prefix, nowhere));
    check(PyConfig_SetString(config, &config->base_prefix, nowhere));
    check(PyConfig_SetString(config, &config->base_exec_prefix, nowhere));
    check(PyConfig_SetString(config, &config->stdlib_dir, nowhere));
    check(PyConfig_SetBytesString(config, &config->executable, argv[0]));
    PyMem_RawFree(extensions);
}

/* Python's own SHA-2 is in a library that may be missing (build.py): hashlib and random then take OpenSSL's. */
static void leave_out(const char *module)
{
    struct _inittab *entry = PyImport_Inittab;

    while (entry->name && strcmp(entry->name, module) != 0)
        entry++;
    for (; entry->name; entry++)
        entry[0] = entry[1];
}

int main(int argc, char **argv)
{
    const char *linker = (const char *)getauxval(AT_EXECFN); /* it is next to this executable */
    const char *module = entry_module(argv[0]);
    PyPreConfig preconfig;
    PyConfig config;
    PyObject *runner;
    int status = 1;

    if (!module) {
        fprintf(stderr, "error: called as %s: the programs of this bundle are capture-cni, istio-init and capture\n", argv[0]);
        return 2;
    }
    copy_data_at_once();
    PyObject_SetArenaAllocator(&(PyObjectArenaAllocator){NULL, new_arena, free_arena});
    PyPreConfig_InitIsolatedConfig(&preconfig);
    preconfig.utf8_mode = 1;
    check(Py_PreInitialize(&preconfig));
    PyImport_FrozenModules = FROZEN_MODULES;
    leave_out("_sha2");
    PyImport_AppendInittab("bundle_calls", make_calls);
    configure(&config, argc, argv, linker);
    check(Py_InitializeFromConfig(&config));
    PyConfig_Clear(&config);

    runner = PyImport_ImportModule("bundle_start");
    if (runner) {
        PyObject *code = PyObject_CallMethod(runner, "run", "s", module);
        if (code && PyLong_Check(code))
            status = (int)PyLong_AsLong(code);
        Py_XDECREF(code);
    }
    if (PyErr_Occurred())
        PyErr_Print();
    /* Output is flushed; taking the interpreter apart would only cost time. */
    fflush(NULL);
    _exit(status);
}
