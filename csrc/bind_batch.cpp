// Packed batches: lists of token ids laid end to end, and the integers of a batch in a GPU bucket's pinned memory. In
// NumPy's calls, either would take longer than a short batch takes the device. Both have a counterpart in Python, for
// where this module is not built.

#include <algorithm>
#include <limits>
#include <numeric>
#include <optional>
#include <vector>

#include "bindings.h"

namespace distilrt {
namespace {

using Indices = py::array_t<int32_t, py::array::c_style | py::array::forcecast>;

py::object pack_lists(const py::object& sequences, long vocab_size) {
  if (!PyList_Check(sequences.ptr()) && !PyTuple_Check(sequences.ptr())) return py::none();
  int64_t tokens = 0;
  for (const py::handle sequence : sequences) {
    if (!PyList_Check(sequence.ptr())) return py::none();
    tokens += PyList_GET_SIZE(sequence.ptr());
  }
  if (tokens > std::numeric_limits<int32_t>::max()) return py::none();
  std::vector<int32_t> ids, lengths;
  for (const py::handle sequence : sequences) {
    const py::scoped_critical_section locked(sequence);
    const Py_ssize_t length = PyList_GET_SIZE(sequence.ptr());
    if (length == 0) return py::none();
    for (Py_ssize_t i = 0; i < length; ++i) {
      PyObject* item = PyList_GET_ITEM(sequence.ptr(), i);
      if (!PyLong_CheckExact(item)) return py::none();  // a bool is one of its subclasses
      int overflow = 0;
      const long id = PyLong_AsLongAndOverflow(item, &overflow);
      if (overflow != 0 || id < 0 || id >= vocab_size) return py::none();
      ids.push_back(static_cast<int32_t>(id));
    }
    lengths.push_back(static_cast<int32_t>(length));
  }
  const auto total = static_cast<py::ssize_t>(ids.size()), num_seqs = static_cast<py::ssize_t>(lengths.size());
  Ints positions(total), cu_seqlens(num_seqs + 1);
  int32_t *position = positions.mutable_data(), *end = cu_seqlens.mutable_data();
  *end = 0;
  for (const int32_t length : lengths) {
    std::iota(position, position + length, 0);
    position += length;
    end[1] = *end + length;
    ++end;
  }
  const int32_t longest = lengths.empty() ? 0 : *std::max_element(lengths.begin(), lengths.end());
  return py::make_tuple(Ints(total, ids.data()), positions, cu_seqlens, Ints(num_seqs, lengths.data()), longest);
}

// The pinned memory of one bucket, field by field.
struct BucketIntegers {
  Ints cu_seqlens, key_lengths, wanted, query_blocks, input_ids, position_ids, index;
  int32_t block_rows;

  void fill(const Ints& from_cu_seqlens, const Ints& from_key_lengths, const Ints& from_position_ids,
            const std::optional<Ints>& from_input_ids, const std::optional<Indices>& from_wanted, py::ssize_t first,
            py::ssize_t end, py::ssize_t low, py::ssize_t high, bool few) {
    const py::ssize_t seqs = end - first;
    require(0 <= first && first < end && end <= from_key_lengths.size() && end < from_cu_seqlens.size() &&
                seqs <= key_lengths.size(),
            "first and end must be sequences of the batch, and no more than the bucket holds");
    const int32_t *from = from_cu_seqlens.data(), *keys = from_key_lengths.data();
    const int32_t start = from[first], total = from[end] - start;
    require(std::is_sorted(from + first, from + end + 1) && start >= 0 && from[end] <= from_position_ids.size() &&
                (!from_input_ids || from[end] <= from_input_ids->size()) && total <= position_ids.size(),
            "cu_seqlens must rise from 0 to the batch's rows, and the part be no longer than the bucket");
    int32_t* ends = cu_seqlens.mutable_data();
    for (py::ssize_t i = 0; i < seqs; ++i) ends[i] = from[first + i] - start;
    std::fill(ends + seqs, ends + cu_seqlens.size(), total);
    std::copy(keys + first, keys + end, key_lengths.mutable_data());
    std::copy_n(from_position_ids.data() + start, total, position_ids.mutable_data());
    if (from_input_ids) std::copy_n(from_input_ids->data() + start, total, input_ids.mutable_data());
    list_blocks(seqs);
    if (!from_wanted) return;
    Ints& rows = few ? wanted : index;
    const py::ssize_t room = few ? rows.size() - 1 : rows.size();
    require(0 <= low && low <= high && high <= from_wanted->size() && high - low <= room,
            "low and high must be wanted rows, and no more than the bucket holds");
    int32_t* listed = rows.mutable_data();
    for (py::ssize_t i = low; i < high; ++i) *listed++ = from_wanted->data()[i] - start;
    if (few) rows.mutable_data()[room] = static_cast<int32_t>(high - low);
  }

 private:
  // The blocks of queries of the first sequences, as `distilrt.kernels.attention.query_blocks` lists them.
  void list_blocks(py::ssize_t seqs) {
    const int32_t *ends = cu_seqlens.data(), *keys = key_lengths.data();
    int32_t* block = query_blocks.mutable_data();
    const py::ssize_t room = query_blocks.shape(0) - 1;
    py::ssize_t count = 0;
    for (py::ssize_t i = 0; i < seqs; ++i) {
      const int32_t rows = ends[i + 1] - ends[i];
      for (int32_t query = 0; query < rows; query += block_rows) {
        require(++count <= room, "query_blocks has too few entries");
        block += 4;
        block[0] = ends[i];
        block[1] = query;
        block[2] = rows;
        block[3] = keys[i];
      }
    }
    query_blocks.mutable_data()[0] = static_cast<int32_t>(count);
  }
};

BucketIntegers bucket_integers(const Ints& cu_seqlens, const Ints& key_lengths, const Ints& wanted,
                               const Ints& query_blocks, const Ints& input_ids, const Ints& position_ids,
                               const Ints& index, int32_t block_rows) {
  require(cu_seqlens.size() == key_lengths.size() + 1 && wanted.size() > 0 && query_blocks.ndim() == 2 &&
              query_blocks.shape(0) > 0 && query_blocks.shape(1) == 4 && input_ids.size() == position_ids.size() &&
              block_rows > 0,
          "the fields of a bucket do not fit one another");
  return {cu_seqlens, key_lengths, wanted, query_blocks, input_ids, position_ids, index, block_rows};
}

}  // namespace

void bind_batch(py::module_& m) {
  m.def("pack_lists", &pack_lists, py::arg("sequences"), py::arg("vocab_size"), "Lists laid end to end; see _C.pyi.");
  py::class_<BucketIntegers>(m, "BucketIntegers", "A GPU bucket's pinned memory; see _C.pyi.")
      .def(py::init(&bucket_integers), array_arg("cu_seqlens"), array_arg("key_lengths"), array_arg("wanted"),
           array_arg("query_blocks"), array_arg("input_ids"), array_arg("position_ids"), array_arg("index"),
           py::arg("block_rows"))
      .def("fill", &BucketIntegers::fill, array_arg("cu_seqlens"), array_arg("key_lengths"), array_arg("position_ids"),
           array_arg("input_ids"), py::arg("wanted"), py::arg("first"), py::arg("end"), py::arg("low"), py::arg("high"),
           py::arg("few"));
}

}  // namespace distilrt
