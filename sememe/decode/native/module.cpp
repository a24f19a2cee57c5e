// The Python module: which path to take, workspaces, requests, and whether a tree and a model belong together.
//
// Models and trees come as addresses of structs that structs.py fills once; a request comes as arrays, each with its
// shape, since one is made per call.  Other threads run while the kernel works.
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdlib.h>

#include <new>

#include "kernel.h"

void* grow(Workspace& work, int slot, size_t bytes) {
  // Half as much again, so that requests of rising size do not each ask the system.
  const size_t wanted = (bytes + bytes / 2 + 63) / 64 * 64;
  free(work.at[slot]);
  work.bytes[slot] = 0;
  work.at[slot] = aligned_alloc(64, wanted);
  if (!work.at[slot]) throw std::bad_alloc();
  work.bytes[slot] = wanted;
  return work.at[slot];
}

namespace {

enum Path { PORTABLE = 0, AVX2 = 1, AVX512 = 2 };

int64_t code_at(const Codes& codes, int64_t index) {
  if (codes.bytes == 1) return static_cast<const uint8_t*>(codes.at)[index];
  if (codes.bytes == 2) return static_cast<const int16_t*>(codes.at)[index];
  return static_cast<const int32_t*>(codes.at)[index];
}

int64_t first_position(const Trie& trie, int64_t depth, int64_t node) {
  return trie.item_starts[depth] ? trie.item_starts[depth][node] : node;
}

// Whether this processor can run a path.
bool runs(int64_t path) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (path == AVX2)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("popcnt");
  if (path == AVX512)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("fma") && __builtin_cpu_supports("popcnt");
#endif
  return path == PORTABLE;
}

int answer([[maybe_unused]] int64_t path, const Model* model, const Trie* trie, Workspace* work, Request* request) {
  try {
#if defined(__x86_64__)
    if (path == AVX512) return path_avx512::run(*model, trie, *work, *request);
    if (path == AVX2) return path_avx2::run(*model, trie, *work, *request);
#endif
    return path_portable::run(*model, trie, *work, *request);
  } catch (const std::bad_alloc&) {
    return NO_MEMORY;
  }
}

// The first position whose item has other codes in the tree than in `codes` (items, L); -1 where there is none.
int64_t differing(const Trie& trie, const Codes& codes) {
  for (int64_t level = 0; level < trie.levels; level++) {
    int64_t position = 0;
    for (int64_t node = 0; position < trie.num_items; node++) {
      const int64_t code = code_at(trie.child_codes[level], node);
      const int64_t end = first_position(trie, level + 1, node + 1);
      for (; position < end; position++)
        if (code_at(codes, trie.items[position] * trie.levels + level) != code) return position;
    }
  }
  return -1;
}

template <typename T>
T* at(PyObject* number) {
  return static_cast<T*>(PyLong_AsVoidPtr(number));
}

// The arrays of a call, let go at its end.
struct Arrays {
  enum { MOST = 16 };
  Py_buffer views[MOST];
  int count = 0;
  bool fits = true;

  ~Arrays() {
    for (int i = 0; i < count; i++) PyBuffer_Release(&views[i]);
  }

  // The numbers of `array`, which has `rows` rows of `columns` numbers of `bytes` bytes; columns -1: any number, as
  // told by `found`.  Null for None.
  void* take(PyObject* array, int64_t bytes, int64_t rows, int64_t columns, bool written, int64_t* found = nullptr) {
    if (array == Py_None || !fits) return nullptr;
    Py_buffer* const view = &views[count];
    fits = PyObject_GetBuffer(array, view, PyBUF_C_CONTIGUOUS | (written ? PyBUF_WRITABLE : 0)) == 0;
    if (!fits) return nullptr;
    count++;
    const int64_t wide = view->ndim == 2 ? view->shape[1] : 1;
    fits = view->itemsize == bytes && view->ndim >= 1 && view->ndim <= 2 && view->shape[0] == rows &&
           (columns < 0 || wide == columns);
    if (!fits) PyErr_Format(PyExc_ValueError, "array %d of a request has another shape or type", count);
    if (found) *found = wide;
    return view->buf;
  }
};

// run(path, model, trie, workspace, rows, width, first_width, k, items, counts, states, seen, allowed, allowed_before,
//     out_items, out_scores, out_tied, out_eligible, work): None, or (answer, row, value).
PyObject* run(PyObject*, PyObject* const* given, Py_ssize_t count) {
  if (count != 19) return PyErr_Format(PyExc_TypeError, "run takes 19 arguments, not %zd", count);
  const int64_t path = PyLong_AsLongLong(given[0]);
  const Model* const model = at<const Model>(given[1]);
  const Trie* const trie = at<const Trie>(given[2]);
  Workspace* const work = at<Workspace>(given[3]);
  Request request = {};
  const int64_t rows = request.rows = PyLong_AsLongLong(given[4]);
  request.width = PyLong_AsLongLong(given[5]);
  request.first_width = PyLong_AsLongLong(given[6]);
  const int64_t k = request.k = PyLong_AsLongLong(given[7]);
  if (PyErr_Occurred()) return nullptr;
  Arrays arrays;
  PyObject* const* array = given + 8;
  request.items = (const int32_t*)arrays.take(*array++, 4, rows, -1, false, &request.item_stride);
  request.counts = (const int64_t*)arrays.take(*array++, 8, rows, 1, false);
  request.states = (const State*)arrays.take(*array++, 8, rows, 3, false);
  request.seen = (const int32_t*)arrays.take(*array++, 4, rows, -1, false, &request.seen_stride);
  request.allowed = (const uint64_t* const*)arrays.take(*array++, 8, rows, 1, false);
  request.allowed_before = (const int32_t* const*)arrays.take(*array++, 8, rows, 1, false);
  request.out_items = (int64_t*)arrays.take(*array++, 8, rows, k, true);
  request.out_scores = (float*)arrays.take(*array++, 4, rows, k, true);
  request.out_tied = (int64_t*)arrays.take(*array++, 8, rows, 1, true);
  request.out_eligible = (int64_t*)arrays.take(*array++, 8, rows, 1, true);
  request.work = (int64_t*)arrays.take(*array++, 8, trie->levels, 2, true);
  if (!arrays.fits) return nullptr;
  int found = FINE;
  Py_BEGIN_ALLOW_THREADS
  found = answer(path, model, trie, work, &request);
  Py_END_ALLOW_THREADS
  if (found == FINE) Py_RETURN_NONE;
  return Py_BuildValue("iLL", found, (long long)request.fault_row, (long long)request.fault_value);
}

// Sizes of the structs, by which Python sees that its own mirror of them is this kernel's.
PyObject* sizes(PyObject*, PyObject*) {
  return Py_BuildValue("nnnn", sizeof(Model), sizeof(Block), sizeof(Level), sizeof(Trie));
}

PyObject* can_run(PyObject*, PyObject* path) { return PyBool_FromLong(runs(PyLong_AsLongLong(path))); }

PyObject* new_workspace(PyObject*, PyObject*) {
  void* const work = calloc(1, sizeof(Workspace));
  return work ? PyLong_FromVoidPtr(work) : PyErr_NoMemory();
}

PyObject* workspace_bytes(PyObject*, PyObject* place) {
  size_t total = sizeof(Workspace);
  for (size_t bytes : at<Workspace>(place)->bytes) total += bytes;
  return PyLong_FromSize_t(total);
}

PyObject* free_workspace(PyObject*, PyObject* place) {
  Workspace* const work = at<Workspace>(place);
  for (void* part : work->at) free(part);
  free(work);
  Py_RETURN_NONE;
}

// multiply_add(path, rounds): does nothing else for so many rounds, and says how many operations that was.
PyObject* multiply_add(PyObject*, PyObject* given) {
  long long path, rounds;
  if (!PyArg_ParseTuple(given, "LL", &path, &rounds)) return nullptr;
  int64_t flops = 0;
  volatile float result = 0.0f;
#if defined(__x86_64__)
  if (path == AVX512) result = path_avx512::multiply_add(rounds, &flops);
  if (path == AVX2) result = path_avx2::multiply_add(rounds, &flops);
#endif
  if (!flops) result = path_portable::multiply_add(rounds, &flops);
  (void)result;
  return PyLong_FromLongLong(flops);
}

// gelu(path, values): in place; values (n,) fp32, n a multiple of PANEL.
PyObject* gelu(PyObject*, PyObject* given) {
  long long path;
  PyObject* values;
  if (!PyArg_ParseTuple(given, "LO", &path, &values)) return nullptr;
  Py_buffer view;
  if (PyObject_GetBuffer(values, &view, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)) return nullptr;
  float* const numbers = static_cast<float*>(view.buf);
  const int64_t count = view.len / static_cast<Py_ssize_t>(sizeof(float));
#if defined(__x86_64__)
  if (path == AVX512) path_avx512::gelu_each(numbers, numbers, count);
  if (path == AVX2) path_avx2::gelu_each(numbers, numbers, count);
#endif
  if (path == PORTABLE) path_portable::gelu_each(numbers, numbers, count);
  PyBuffer_Release(&view);
  Py_RETURN_NONE;
}

// first_difference(trie, codes): addresses; see `differing`.
PyObject* first_difference(PyObject*, PyObject* given) {
  PyObject *trie, *codes;
  if (!PyArg_ParseTuple(given, "OO", &trie, &codes)) return nullptr;
  int64_t found;
  Py_BEGIN_ALLOW_THREADS
  found = differing(*at<const Trie>(trie), *at<const Codes>(codes));
  Py_END_ALLOW_THREADS
  return PyLong_FromLongLong(found);
}

// match(above, parents, starts, codes, larger_starts, larger_codes, below): for the nodes of the next depth of a tree,
// the nodes of a larger tree with the same prefixes; `above` says it of the `parents` nodes of this depth.
PyObject* match(PyObject*, PyObject* given) {
  PyObject* numbers[6];
  long long parents;
  if (!PyArg_ParseTuple(given, "OLOOOOO", &numbers[0], &parents, &numbers[1], &numbers[2], &numbers[3], &numbers[4],
                        &numbers[5]))
    return nullptr;
  const int32_t* const above = at<const int32_t>(numbers[0]);
  const int32_t* const starts = at<const int32_t>(numbers[1]);
  const Codes& codes = *at<const Codes>(numbers[2]);
  const int32_t* const larger_starts = at<const int32_t>(numbers[3]);
  const Codes& larger_codes = *at<const Codes>(numbers[4]);
  int32_t* const below = at<int32_t>(numbers[5]);
  for (int64_t parent = 0; parent < parents; parent++) {
    int64_t place = larger_starts[above[parent]];
    for (int64_t child = starts[parent]; child < starts[parent + 1]; child++, place++) {
      while (code_at(larger_codes, place) != code_at(codes, child)) place++;
      below[child] = static_cast<int32_t>(place);
    }
  }
  Py_RETURN_NONE;
}

PyMethodDef methods[] = {
    {"run", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(run)), METH_FASTCALL, nullptr},
    {"sizes", sizes, METH_NOARGS, nullptr},
    {"can_run", can_run, METH_O, nullptr},
    {"new_workspace", new_workspace, METH_NOARGS, nullptr},
    {"workspace_bytes", workspace_bytes, METH_O, nullptr},
    {"free_workspace", free_workspace, METH_O, nullptr},
    {"multiply_add", multiply_add, METH_VARARGS, nullptr},
    {"gelu", gelu, METH_VARARGS, nullptr},
    {"first_difference", first_difference, METH_VARARGS, nullptr},
    {"match", match, METH_VARARGS, nullptr},
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_kernel", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__kernel(void) {
  PyObject* const module = PyModule_Create(&definition);
  if (module && PyModule_AddIntConstant(module, "ABI", SEMEME_ABI)) {
    Py_DECREF(module);
    return nullptr;
  }
  return module;
}
