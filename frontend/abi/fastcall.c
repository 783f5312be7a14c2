/* fastcall.c: see fastcall.h. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "fastcall.h"

#include "guest_private.h"
#include "movable.h"

#define ENTER_TRIES_MAX 64      /* threads in a row that got the slot before this one */

/* Lives as long as one of the functions does. All fields are used under the GIL. */
struct mc_binding {
    struct mc_guest *guest;     /* NULL after mc_python_unbind */
    PyObject *on_error;
    int busy;                   /* a thread uses the slot without the GIL, and holds the lock */
    pthread_mutex_t lock;
};

static struct mc_binding *binding_of(PyObject *self)
{
    return PyCapsule_GetPointer(self, NULL);
}

static PyObject *raise_status(struct mc_binding *binding, int64_t status, PyObject *frame,
                              int order)
{
    PyObject *on_error = Py_NewRef(binding->on_error);
    PyObject *result = frame != NULL
        ? PyObject_CallFunction(on_error, "LOi", (long long)status, frame, order)
        : PyObject_CallFunction(on_error, "Lii", (long long)status, -1, order);

    Py_DECREF(on_error);
    if (result == NULL)
        return NULL;
    Py_DECREF(result);
    return PyErr_Format(PyExc_SystemError, "on_error did not raise for status %lld",
                        (long long)status);
}

/* Make the slot this thread's; MC_OK, MC_ETIMEOUT, or MC_ESTATE with ValueError set. */
static int binding_enter(struct mc_binding *binding)
{
    int status;

    for (int i = 0; i < ENTER_TRIES_MAX; i++) {
        if (binding->guest == NULL) {
            PyErr_SetString(PyExc_ValueError, "the domain is closed");
            return MC_ESTATE;
        }
        if (!binding->busy) {
            binding->busy = 1;
            pthread_mutex_lock(&binding->lock);     /* held by nobody for long */
            return MC_OK;
        }
        Py_BEGIN_ALLOW_THREADS
        status = mc_lock_within(&binding->lock, 2 * MC_CALL_TIMEOUT_NS);
        if (status == MC_OK)
            pthread_mutex_unlock(&binding->lock);
        Py_END_ALLOW_THREADS
        if (status != MC_OK)
            return status;
    }
    return MC_ETIMEOUT;
}

static void binding_leave(struct mc_binding *binding)
{
    binding->busy = 0;
    pthread_mutex_unlock(&binding->lock);
}

static int argument_order(PyObject *const *args, Py_ssize_t count, Py_ssize_t at, int *order)
{
    long value = 0;

    if (count > at) {
        value = PyLong_AsLong(args[at]);
        if (value == -1 && PyErr_Occurred())
            return 0;
    }
    *order = value < 0 || value > INT_MAX ? INT_MAX : (int)value;    /* refused as out of range */
    return 1;
}

static PyObject *py_alloc_slowly(struct mc_binding *binding, int order)
{
    int64_t frame = binding_enter(binding);

    if (frame == MC_ESTATE)
        return NULL;
    if (frame == MC_OK) {
        struct mc_guest *guest = binding->guest;

        Py_BEGIN_ALLOW_THREADS
        frame = mc_guest_alloc(guest, guest->slot, order);
        Py_END_ALLOW_THREADS
        binding_leave(binding);
    }
    return frame < 0 ? raise_status(binding, frame, NULL, order) : PyLong_FromLongLong(frame);
}

static PyObject *py_alloc(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    struct mc_binding *binding = binding_of(self);
    struct mc_guest *guest = binding->guest;
    int order;

    if (count == 0 && guest != NULL && !binding->busy &&
        atomic_load_explicit(&guest->frames.slots[guest->slot].free, memory_order_relaxed) != 0) {
        int64_t frame = mc_frames_alloc(&guest->frames, guest->slot, 0);

        if (frame >= 0)
            return PyLong_FromLongLong(frame);
    }
    if (count > 1) {
        PyErr_Format(PyExc_TypeError, "alloc() takes at most 1 argument (%zd given)", count);
        return NULL;
    }
    return argument_order(args, count, 0, &order) ? py_alloc_slowly(binding, order) : NULL;
}

static PyObject *py_free(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    struct mc_binding *binding = binding_of(self);
    int order = 0, status = MC_OK, overflow;
    long long frame;

    if (count < 1 || count > 2)
        return PyErr_Format(PyExc_TypeError, "free() takes 1 or 2 arguments (%zd given)", count);
    if (count == 2 && !argument_order(args, count, 1, &order))
        return NULL;
    frame = PyLong_AsLongLongAndOverflow(args[0], &overflow);
    if (frame == -1 && PyErr_Occurred())
        return NULL;
    if (overflow)
        frame = -1;
    /* A free never blocks, so this thread alone uses the slot for as long as it has the GIL. */
    if (binding->busy || binding->guest == NULL) {
        status = binding_enter(binding);
        if (status == MC_ESTATE)
            return NULL;
        if (status == MC_OK)
            binding_leave(binding);
    }
    if (status == MC_OK)
        status = mc_frames_free(&binding->guest->frames, binding->guest->slot, (uint64_t)frame,
                                order);
    if (status < 0)
        return raise_status(binding, status, args[0], order);
    Py_RETURN_NONE;
}

static int64_t slot_call(struct mc_guest *guest, long long op, const uint64_t arg[3])
{
    int slot = guest->slot;

    switch (op) {
    case MC_SLOT_ALLOC_MANY:
        return mc_guest_alloc_many(guest, slot, (uint32_t *)(uintptr_t)arg[0], arg[1]);
    case MC_SLOT_FREE_MANY:
        return mc_frames_free_many(&guest->frames, slot, (const uint32_t *)(uintptr_t)arg[0],
                                   arg[1], (int *)(uintptr_t)arg[2]);
    case MC_SLOT_ALLOC_AREAS:
        return arg[0] > MC_TREE_AREAS ? MC_EINDEX
                                      : mc_guest_alloc_areas(guest, slot, (uint32_t)arg[0]);
    case MC_SLOT_FREE_AREAS:
        return arg[1] > MC_TREE_AREAS
            ? MC_EINDEX
            : mc_frames_free_areas(&guest->frames, slot, arg[0], (uint32_t)arg[1]);
    case MC_SLOT_RELEASE:
        return mc_guest_release(guest, arg[0]);
    case MC_SLOT_ALLOC_MOVABLE:
        return mc_movable_alloc(guest, slot);
    case MC_SLOT_FREE_MOVABLE:
        return arg[0] > UINT32_MAX ? MC_ENEVER : mc_movable_free(guest, slot, (uint32_t)arg[0]);
    case MC_SLOT_DRAIN:
        return mc_slot_drain(&guest->frames, slot);
    default:
        return MC_EOP;
    }
}

static PyObject *py_slot_call(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    struct mc_binding *binding = binding_of(self);
    uint64_t arg[4] = {0};
    int64_t result;

    if (count < 1 || count > 4)
        return PyErr_Format(PyExc_TypeError, "slot_call() takes 1 to 4 arguments");
    for (Py_ssize_t i = 0; i < count; i++) {
        arg[i] = PyLong_AsUnsignedLongLong(args[i]);
        if (arg[i] == UINT64_MAX && PyErr_Occurred())
            return NULL;
    }
    result = binding_enter(binding);
    if (result == MC_ESTATE)
        return NULL;
    if (result == MC_OK) {
        Py_BEGIN_ALLOW_THREADS
        result = slot_call(binding->guest, (long long)arg[0], arg + 1);
        Py_END_ALLOW_THREADS
        binding_leave(binding);
    }
    return PyLong_FromLongLong(result);
}

static void binding_free(PyObject *capsule)
{
    struct mc_binding *binding = PyCapsule_GetPointer(capsule, NULL);

    pthread_mutex_destroy(&binding->lock);
    Py_DECREF(binding->on_error);
    PyMem_Free(binding);
}

/* CPython keeps the address of a definition, and only reads from it. */
static PyMethodDef definitions[] = {
    {"alloc", (PyCFunction)(void (*)(void))py_alloc, METH_FASTCALL,
     "alloc(order=0) -> frame: the first of 2**order frames of 4 KiB."},
    {"free", (PyCFunction)(void (*)(void))py_free, METH_FASTCALL,
     "free(frame, order=0): give a block back, by the frame and order alloc gave it."},
    {"slot_call", (PyCFunction)(void (*)(void))py_slot_call, METH_FASTCALL, NULL},
};

/* Drain the slot for a thread without the GIL that migrates frames. While another thread uses the
 * slot, nothing is drained. */
static void binding_drain_slot(void *context)
{
    PyGILState_STATE gil = PyGILState_Ensure();
    struct mc_binding *binding = context;

    if (binding->guest != NULL && !binding->busy)
        mc_slot_drain(&binding->guest->frames, binding->guest->slot);
    PyGILState_Release(gil);
}

struct mc_binding *mc_python_bind(struct mc_guest *guest, uintptr_t functions, uintptr_t on_error)
{
    PyGILState_STATE gil = PyGILState_Ensure();
    struct mc_binding *binding = PyMem_Calloc(1, sizeof *binding);
    PyObject *capsule = NULL;
    int failed = binding == NULL;

    if (!failed) {
        binding->guest = guest;
        binding->on_error = Py_NewRef((PyObject *)on_error);
        pthread_mutex_init(&binding->lock, NULL);
        capsule = PyCapsule_New(binding, NULL, binding_free);
        failed = capsule == NULL;
    }
    for (size_t i = 0; !failed && i < sizeof definitions / sizeof definitions[0]; i++) {
        PyObject *function = PyCFunction_NewEx(&definitions[i], capsule, NULL);

        failed = function == NULL || PyList_Append((PyObject *)functions, function) != 0;
        Py_XDECREF(function);
    }
    Py_XDECREF(capsule);
    if (failed) {
        PyErr_Clear();
    } else {
        guest->own->drain_context = binding;
        __atomic_store_n(&guest->own->drain, binding_drain_slot, __ATOMIC_RELEASE);
    }
    PyGILState_Release(gil);
    return failed ? NULL : binding;
}

int mc_python_unbind(struct mc_binding *binding)
{
    PyGILState_STATE gil = PyGILState_Ensure();
    int status = binding_enter(binding);

    if (status == MC_OK) {
        binding->guest = NULL;
        binding_leave(binding);
    } else if (status == MC_ESTATE) {
        PyErr_Clear();              /* unbound already */
        status = MC_OK;
    }
    PyGILState_Release(gil);
    return status;
}
