/* calls.c: see calls.h. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "calls.h"

struct mc_call {
    uintptr_t entry;
    int count;
    unsigned u64_mask;
};

#define PAGE_CALL_WORDS 7               /* the arguments before the page */
#define PAGE_CALL_U64 (7u << 3)         /* of them the oid */
#define PAGE_CALL_INDEX 6

/* One argument as a word; 0 with an exception set when it does not fit. */
static int call_word(PyObject *given, int is_u64, int64_t *word)
{
    if (PyLong_Check(given)) {
        *word = is_u64 ? (int64_t)PyLong_AsUnsignedLongLong(given) : PyLong_AsLongLong(given);
        return *word != -1 || !PyErr_Occurred();
    }
    PyObject *number = PyNumber_Index(given);
    if (number == NULL)
        return 0;
    int is_word = call_word(number, is_u64, word);
    Py_DECREF(number);
    return is_word;
}

static int call_words(PyObject *const *args, int count, unsigned u64_mask, int64_t *word)
{
    for (int i = 0; i < count; i++)
        if (!call_word(args[i], u64_mask >> i & 1, &word[i]))
            return 0;
    return 1;
}

#define I int64_t
#define ENTRY(...) ((int64_t (*)(__VA_ARGS__))entry)

static int64_t call_entry(uintptr_t entry, int count, const int64_t *w)
{
    switch (count) {
    case 1: return ENTRY(I)(w[0]);
    case 2: return ENTRY(I, I)(w[0], w[1]);
    case 3: return ENTRY(I, I, I)(w[0], w[1], w[2]);
    case 4: return ENTRY(I, I, I, I)(w[0], w[1], w[2], w[3]);
    case 5: return ENTRY(I, I, I, I, I)(w[0], w[1], w[2], w[3], w[4]);
    case 6: return ENTRY(I, I, I, I, I, I)(w[0], w[1], w[2], w[3], w[4], w[5]);
    case 7: return ENTRY(I, I, I, I, I, I, I)(w[0], w[1], w[2], w[3], w[4], w[5], w[6]);
    case 8: return ENTRY(I, I, I, I, I, I, I, I)(w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7]);
    case 9: return ENTRY(I, I, I, I, I, I, I, I, I)(w[0], w[1], w[2], w[3], w[4], w[5], w[6],
                                                    w[7], w[8]);
    default: return ENTRY(I, I, I, I, I, I, I, I, I, I)(w[0], w[1], w[2], w[3], w[4], w[5], w[6],
                                                        w[7], w[8], w[9]);
    }
}

static PyObject *call_of_words(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    const struct mc_call *call = PyCapsule_GetPointer(self, NULL);
    int64_t word[MC_CALL_WORDS_MAX];
    if (count != call->count)
        return PyErr_Format(PyExc_TypeError, "takes %d arguments (%zd given)", call->count, count);
    if (!call_words(args, call->count, call->u64_mask, word))
        return NULL;
    return PyLong_FromLongLong(call_entry(call->entry, call->count, word));
}

static int64_t call_one_page(const struct mc_page_call *call, const int64_t *word, void *page)
{
    uint32_t index = (uint32_t)word[PAGE_CALL_INDEX];
    int64_t code = 0;
    int64_t of_many[MC_CALL_WORDS_MAX] = {
        word[0], call->op, word[1], word[2], (int64_t)(uintptr_t)&word[3], 0,
        (int64_t)(uintptr_t)&index, (int64_t)(uintptr_t)page, (int64_t)(uintptr_t)&code, 1,
    };
    call_entry(call->many, MC_CALL_WORDS_MAX, of_many);
    return code;
}

static PyObject *call_of_page(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    const struct mc_page_call *call = PyCapsule_GetPointer(self, NULL);
    int64_t word[PAGE_CALL_WORDS], code;
    Py_buffer view;
    if (count != PAGE_CALL_WORDS + 1)
        return PyErr_Format(PyExc_TypeError, "takes 8 arguments (%zd given)", count);
    if (!call_words(args, PAGE_CALL_WORDS, PAGE_CALL_U64, word))
        return NULL;
    if (PyObject_GetBuffer(args[PAGE_CALL_WORDS], &view,
                           call->is_writable ? PyBUF_WRITABLE : PyBUF_SIMPLE) != 0)
        return NULL;
    if (view.len != call->page_bytes)
        code = call->bad_buffer;
    else if (word[PAGE_CALL_INDEX] < 0 || word[PAGE_CALL_INDEX] > UINT32_MAX)
        code = call->bad_index;
    else
        code = call_one_page(call, word, view.buf);
    PyBuffer_Release(&view);
    return PyLong_FromLongLong(code);
}

static void call_free(PyObject *capsule)
{
    PyMem_Free(PyCapsule_GetPointer(capsule, NULL));
}

/* CPython keeps the address of a definition, and only reads from it. */
static PyMethodDef definitions[] = {
    {"entry", (PyCFunction)(void (*)(void))call_of_words, METH_FASTCALL, NULL},
    {"page_entry", (PyCFunction)(void (*)(void))call_of_page, METH_FASTCALL, NULL},
};

/* Append a function of `definition` that has a copy of `size` bytes at `what`. */
static int call_append(uintptr_t functions, PyMethodDef *definition, const void *what, size_t size)
{
    PyGILState_STATE gil = PyGILState_Ensure();
    PyObject *capsule = NULL, *function = NULL;
    void *copy = PyMem_Malloc(size);
    int failed = -1;
    if (copy != NULL)
        capsule = PyCapsule_New(memcpy(copy, what, size), NULL, call_free);
    if (capsule == NULL)
        PyMem_Free(copy);
    if (capsule != NULL && (function = PyCFunction_NewEx(definition, capsule, NULL)) != NULL)
        failed = PyList_Append((PyObject *)functions, function);
    Py_XDECREF(function);
    Py_XDECREF(capsule);
    if (failed)
        PyErr_Clear();
    PyGILState_Release(gil);
    return failed;
}

int mc_call_bind(uintptr_t functions, uintptr_t entry, int count, unsigned u64_mask)
{
    struct mc_call call = {entry, count, u64_mask};
    return call_append(functions, &definitions[0], &call, sizeof call);
}

int mc_call_bind_page(uintptr_t functions, const struct mc_page_call *page_call)
{
    return call_append(functions, &definitions[1], page_call, sizeof *page_call);
}
