// The Python face of csrc/: checks shapes, releases the GIL, and nothing else. The only file that includes pybind11.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <stdexcept>
#include <type_traits>

#include "batch_attention.h"
#include "dispatch.h"
#include "encoder.h"
#include "thread_pool.h"

namespace py = pybind11;
using namespace distilrt;

namespace {

// C-contiguous arrays of exactly this dtype: never a hidden copy.
using Floats = py::array_t<float, py::array::c_style>;
using Ints = py::array_t<int32_t, py::array::c_style>;
using Bytes = py::array_t<uint8_t, py::array::c_style>;

void require(bool condition, const std::string& message) {
  if (!condition) throw std::invalid_argument(message);
}

Epilogue epilogue_named(const std::string& activation) {
  if (activation == "gelu") return Epilogue::kBiasGelu;
  if (activation == "gelu_new" || activation == "gelu_pytorch_tanh") return Epilogue::kBiasGeluTanh;
  if (activation == "relu") return Epilogue::kBiasRelu;
  if (activation == "silu") return Epilogue::kBiasSilu;
  if (activation.empty()) return Epilogue::kBias;
  throw std::invalid_argument("unknown activation '" + activation + "'");
}

std::vector<std::string> isa_names() {
  std::vector<std::string> names;
  for (const Kernels* table : available_kernels()) names.emplace_back(table->isa);
  return names;
}

std::vector<std::string> dtype_names(const std::string& isa) {
  const Kernels& kernels = find_kernels(isa);
  std::vector<std::string> names;
  for (int64_t i = 0; i < kernels.num_dtypes; ++i) names.emplace_back(kernels.dtypes[i].dtype);
  return names;
}

void require_threads(int threads) {
  require(threads >= 1 && threads <= Team::kMaxThreads,
          "num_threads must be 1 to " + std::to_string(Team::kMaxThreads));
}

std::string shape_of(const py::array& array) {
  std::string text;
  for (py::ssize_t i = 0; i < array.ndim(); ++i) text += (i > 0 ? ", " : "") + std::to_string(array.shape(i));
  return "[" + text + "]";
}

// `array` as one of attention's operands, which must have `shape`.
HeadsView heads_view(const std::string& name, const py::array& array, const py::dtype& dtype,
                     const std::vector<py::ssize_t>& shape, const std::string& words) {
  require(array.dtype().is(dtype), name + " must be " + std::string(py::str(dtype)) + " like query, found " +
                                       std::string(py::str(array.dtype())));
  require(array.ndim() == 4 && std::equal(shape.begin(), shape.end(), array.shape()),
          name + " must have " + words + ", found " + shape_of(array));
  const py::ssize_t size = array.itemsize();
  const bool whole = std::all_of(array.strides(), array.strides() + 4, [&](py::ssize_t s) { return s % size == 0; });
  const bool aligned = reinterpret_cast<uintptr_t>(array.data()) % static_cast<size_t>(size) == 0;
  require(array.size() == 0 || ((array.strides(3) == size || shape[3] == 1) && whole && aligned),
          name + " must be contiguous in its last dimension and aligned; make it so with np.ascontiguousarray");
  return {const_cast<char*>(static_cast<const char*>(array.data())), array.strides(0), array.strides(1),
          array.strides(2)};
}

void batch_attention(const py::array& query, const py::array& key, const py::array& value, py::array& out, float scale,
                     const std::optional<py::array_t<bool, py::array::c_style>>& key_mask, const std::string& isa,
                     int num_threads) {
  const py::dtype dtype = query.dtype();
  const bool narrow = dtype.is(py::dtype::of<uint16_t>());
  require(narrow || dtype.is(py::dtype::of<float>()),
          "query must be float32, or bfloat16 as uint16, found " + std::string(py::str(dtype)));
  const DtypeKernels& kernels = find_dtype(find_kernels(isa), narrow ? "bfloat16" : "float32");
  require(query.ndim() == 4 && query.shape(3) >= 1,
          "query must have shape [batch_size, num_heads, queries, head_dim], found " + shape_of(query));
  require(key.ndim() == 4 && key.shape(2) >= 1,
          "key must have shape [batch_size, num_heads, keys, head_dim] with at "
          "least one key, found " +
              shape_of(key));
  // More would overflow the size of the scratch memory; an array that repeats one key can have them.
  require(key.shape(2) <= std::numeric_limits<int32_t>::max(),
          "key must have at most 2147483647 keys, found " + shape_of(key));
  const std::vector<py::ssize_t> asked(query.shape(), query.shape() + 4);
  const std::vector<py::ssize_t> kept{asked[0], asked[1], key.shape(2), asked[3]};
  const std::string like = "the shape [batch_size, num_heads, keys, head_dim] with query's sizes";
  require(std::isfinite(scale) && scale >= 0, "scale must be finite and at least 0");
  require_threads(num_threads);
  const bool* mask = nullptr;
  if (key_mask) {
    require(key_mask->ndim() == 2 && key_mask->shape(0) == kept[0] && key_mask->shape(1) == kept[2],
            "key_mask must have shape [batch_size, keys], found " + shape_of(*key_mask));
    mask = key_mask->data();
    for (py::ssize_t s = 0; s < kept[0]; ++s)
      require(std::any_of(mask + s * kept[2], mask + (s + 1) * kept[2], [](bool open) { return open; }),
              "key_mask row " + std::to_string(s) + " is all False; every sequence needs at least one key");
  }
  require(out.writeable(), "out must be writeable");
  for (py::ssize_t axis = 0; axis < out.ndim(); ++axis)
    require(out.strides(axis) != 0 || out.shape(axis) <= 1 || out.size() == 0,
            "out must have memory of its own for every element");
  const BatchAttention batch{.query = heads_view("query", query, dtype, asked, ""),
                             .key = heads_view("key", key, dtype, kept, like),
                             .value = heads_view("value", value, dtype, kept, like),
                             .out = heads_view("out", out, dtype, asked, "query's shape"),
                             .batch_size = asked[0],
                             .num_heads = asked[1],
                             .queries = asked[2],
                             .keys = kept[2],
                             .head_dim = asked[3],
                             .scale = scale,
                             .key_mask = mask};
  py::gil_scoped_release nogil;
  attend(batch, kernels, num_threads);
}

// A model together with the embedding tables and panels that it borrows.
class PyEncoder {
 public:
  PyEncoder(int64_t hidden_size, int64_t num_heads, int64_t num_layers, int64_t intermediate_size,
            const std::string& activation, float eps, Floats word, Floats position, const std::string& isa,
            const std::string& dtype, int threads)
      : word_(std::move(word)),
        position_(std::move(position)),
        hidden_size_(hidden_size),
        num_layers_(num_layers),
        encoder_({.hidden_size = hidden_size,
                  .num_heads = num_heads,
                  .num_layers = num_layers,
                  .intermediate_size = intermediate_size,
                  .vocab_size = rows_of(word_, hidden_size),
                  .max_positions = rows_of(position_, hidden_size),
                  .activation = epilogue_named(activation),
                  .eps = eps},
                 find_kernels(isa), find_dtype(find_kernels(isa), dtype), threads) {
    require(hidden_size >= 1 && num_layers >= 1 && intermediate_size >= 1,
            "hidden_size, num_layers and intermediate_size must be at least 1");
    require(num_heads >= 1 && hidden_size % num_heads == 0, "hidden_size must be divisible by num_heads");
    require(std::isfinite(eps) && eps > 0, "eps must be finite and above 0");
    require_threads(threads);
    encoder_.set_embeddings(word_.data(), position_.data());
  }

  void add_linear(const std::string& name, const std::vector<Floats>& weights, const std::vector<Floats>& biases,
                  const std::string& dtype, const std::optional<Floats>& input_scales,
                  const std::optional<Floats>& column_scales) {
    const DtypeKernels& kernels = find_dtype(encoder_.kernels(), dtype);
    require(!weights.empty() && weights.size() == biases.size(), "give one bias for every weight");
    const int64_t k = weights[0].ndim() == 2 ? weights[0].shape(1) : 0;
    int64_t n = 0;
    std::vector<LinearPart> parts;
    for (size_t i = 0; i < weights.size(); ++i) {
      require(weights[i].ndim() == 2 && weights[i].shape(1) == k && biases[i].ndim() == 1 &&
                  biases[i].shape(0) == weights[i].shape(0),
              "'" + name + "' needs weights [n, k] with one k and biases [n]");
      parts.push_back({weights[i].data(), biases[i].data(), weights[i].shape(0)});
      n += weights[i].shape(0);
    }
    require_scales(name, input_scales, k, kernels);
    require_scales(name, column_scales, n, kernels);
    py::gil_scoped_release nogil;
    encoder_.add_linear(name, parts, k, kernels, input_scales ? input_scales->data() : nullptr,
                        column_scales ? column_scales->data() : nullptr);
  }

  void add_packed_linear(const std::string& name, int64_t k, const Bytes& panels, const Floats& column_scales,
                         const Ints& offsets, const Floats& bias, const std::string& dtype,
                         const std::optional<Floats>& input_scales) {
    const DtypeKernels& kernels = find_dtype(encoder_.kernels(), dtype);
    const py::ssize_t n = bias.size(), scaled = is_int8(kernels) ? n : 0;
    // The first two conditions keep packed_bytes from overflowing.
    require(n >= 1 && k >= 1 && k <= panels.size() / n && panels.size() == kernels.packed_bytes(n, k),
            "'" + name + "' needs the panels of a " + dtype + " weight [n, k] and bias [n]");
    require(reinterpret_cast<uintptr_t>(panels.data()) % 4 == 0,
            "'" + name + "' needs panels at a multiple of 4 bytes");
    require(column_scales.size() == scaled && offsets.size() == scaled,
            "'" + name + "' needs " + std::to_string(scaled) + " column_scales and offsets");
    require_scales(name, input_scales, k, kernels);
    encoder_.add_packed_linear(name, n, k, kernels, panels.data(), input_scales ? input_scales->data() : nullptr,
                               column_scales.data(), offsets.data(), bias.data());
    borrowed_.push_back(panels);
  }

  // What add_packed_linear takes, as read-only views that keep the model.
  static py::dict linear_parts(const py::object& self, const std::string& name) {
    const Linear& linear = self.cast<const PyEncoder&>().encoder_.find_linear(name);
    const auto view = [&](auto* data, int64_t size) {
      py::array array(py::dtype::of<std::decay_t<decltype(*data)>>(), {size}, {}, data, self);
      array.attr("setflags")(py::arg("write") = false);
      return array;
    };
    const auto floats = [&](const std::vector<float>& x) { return view(x.data(), static_cast<int64_t>(x.size())); };
    return py::dict(
        py::arg("k") = linear.k, py::arg("panels") = view(static_cast<const uint8_t*>(linear.panels), linear.bytes()),
        py::arg("column_scales") = floats(linear.column_scales),
        py::arg("offsets") = view(linear.offsets.data(), static_cast<int64_t>(linear.offsets.size())),
        py::arg("bias") = floats(linear.bias), py::arg("dtype") = linear.kernels->dtype,
        py::arg("input_scales") = linear.input_scales.empty() ? py::object(py::none()) : floats(linear.input_scales));
  }

  void add_layer_norm(const std::string& name, const Floats& gamma, const Floats& beta) {
    require(gamma.size() == hidden_size_ && beta.size() == hidden_size_, "'" + name + "' needs hidden_size parameters");
    encoder_.add_layer_norm(name, gamma.data(), beta.data(), hidden_size_);
  }

  void finish() { encoder_.finish(); }

  Floats forward(const std::optional<Ints>& input_ids, const std::optional<Floats>& inputs_embeds,
                 const Ints& position_ids, const Ints& cu_seqlens, const Ints& key_lengths, bool all_layers,
                 const std::optional<Ints>& wanted) {
    const int64_t rows = position_ids.size();
    require(input_ids.has_value() != inputs_embeds.has_value(), "give one of input_ids and inputs_embeds");
    require(!input_ids || input_ids->size() == rows, "input_ids and position_ids must have one length");
    require(!inputs_embeds || inputs_embeds->size() == rows * hidden_size_,
            "inputs_embeds must be [rows, hidden_size]");
    require(!wanted || !all_layers, "give one of wanted and all_layers");
    require(cu_seqlens.size() == key_lengths.size() + 1, "cu_seqlens needs one element more than key_lengths");
    const BatchView batch{.input_ids = input_ids ? input_ids->data() : nullptr,
                          .inputs_embeds = inputs_embeds ? inputs_embeds->data() : nullptr,
                          .position_ids = position_ids.data(),
                          .cu_seqlens = cu_seqlens.data(),
                          .key_lengths = key_lengths.data(),
                          .total_tokens = rows,
                          .num_seqs = static_cast<int64_t>(key_lengths.size()),
                          .wanted = wanted ? wanted->data() : nullptr,
                          .num_wanted = wanted ? static_cast<int64_t>(wanted->size()) : 0};
    std::vector<py::ssize_t> shape{static_cast<py::ssize_t>(wanted ? wanted->size() : rows),
                                   static_cast<py::ssize_t>(hidden_size_)};
    if (all_layers) shape.insert(shape.begin(), static_cast<py::ssize_t>(num_layers_ + 1));
    Floats out(shape);
    float* to = out.mutable_data();
    {
      py::gil_scoped_release nogil;
      encoder_.forward(batch, all_layers, to);
    }
    return out;
  }

  Floats linear(const std::string& name, const Floats& x, const std::string& activation) {
    const Linear& weights = encoder_.find_linear(name);
    require(x.ndim() == 2 && x.shape(1) == weights.k,
            "'" + name + "' needs rows [n, " + std::to_string(weights.k) + "]");
    const Epilogue epilogue = epilogue_named(activation);
    Floats out({x.shape(0), static_cast<py::ssize_t>(weights.n)});
    float* to = out.mutable_data();
    py::gil_scoped_release nogil;
    encoder_.linear(weights, x.data(), x.shape(0), epilogue, to);
    return out;
  }

  Floats layer_norm(const std::string& name, const Floats& x) {
    const LayerNorm& norm = encoder_.find_layer_norm(name);
    require(x.ndim() == 2 && x.shape(1) == hidden_size_, "'" + name + "' needs rows [n, hidden_size]");
    Floats out({x.shape(0), x.shape(1)});
    float* to = out.mutable_data();
    py::gil_scoped_release nogil;
    encoder_.layer_norm(norm, x.data(), x.shape(0), to);
    return out;
  }

  std::string isa() const { return encoder_.kernels().isa; }
  int threads() const { return encoder_.threads(); }
  int64_t packed_bytes() const { return encoder_.packed_bytes(); }
  int64_t workspace_bytes() const { return encoder_.workspace_bytes(); }
  std::string dtype() const { return encoder_.dtype().dtype; }
  void poison_workspace() { encoder_.fill_workspace(0xFF); }  // NaN in float32 and bfloat16

 private:
  static void require_scales(const std::string& name, const std::optional<Floats>& scales, int64_t size,
                             const DtypeKernels& kernels) {
    if (!scales) return;
    require(is_int8(kernels), "'" + name + "' has scales, which only int8 has");
    require(scales->size() == size && std::all_of(scales->data(), scales->data() + size,
                                                  [](float scale) { return std::isfinite(scale) && scale >= 0; }),
            "'" + name + "' needs " + std::to_string(size) + " finite scales of at least 0");
  }

  static int64_t rows_of(const Floats& table, int64_t width) {
    require(table.ndim() == 2 && table.shape(1) == width, "embedding tables must be [rows, hidden_size]");
    return table.shape(0);
  }

  const Floats word_, position_;
  const int64_t hidden_size_, num_layers_;
  std::vector<Bytes> borrowed_;
  Encoder encoder_;
};

// Single ops of one instruction set and dtype, for tests and op benches.
class PyKernels {
 public:
  PyKernels(const std::string& isa, const std::string& dtype)
      : kernels_(find_kernels(isa)), dtype_(find_dtype(kernels_, dtype)) {}

  // epilogue(x * input_scales @ weight.T + bias), into `out`; `narrow` goes through activations of the dtype.
  void linear(const Floats& x, const Floats& weight, const Floats& bias, const std::string& activation,
              const std::optional<Floats>& residual, bool narrow, const std::optional<Floats>& input_scales,
              Floats out) {
    require(x.ndim() == 2 && weight.ndim() == 2 && x.shape(1) == weight.shape(1), "x [m, k], weight [n, k]");
    const int64_t m = x.shape(0), n = weight.shape(0), k = x.shape(1);
    require(bias.size() == n && out.size() == m * n && (!residual || residual->size() == m * n),
            "bias [n], out and residual [m, n]");
    require(!input_scales || input_scales->size() == k, "input_scales [k]");
    Pages panels(dtype_.packed_bytes(n, k)), operand(m * lanes(k, dtype_.lane) * 4);
    std::vector<float> column_scales(static_cast<size_t>(n)), row_scales(static_cast<size_t>(2 * m));
    std::vector<int32_t> offsets(static_cast<size_t>(n));
    const int64_t stride = lanes(n, 4) * 4;
    const Pages result(narrow ? m * stride * dtype_.activation_bytes : 0);
    dtype_.pack(weight.data(), k, 0, n, {panels.data(), column_scales.data(), offsets.data(), false});
    if (dtype_.convert != nullptr)
      dtype_.convert(x.data(), m, k, input_scales ? input_scales->data() : nullptr, operand.data(), row_scales.data());
    const GemmArgs args{.a = dtype_.convert != nullptr ? static_cast<const void*>(operand.data()) : x.data(),
                        .lda = lanes(k, dtype_.lane),
                        .row_scales = row_scales.data(),
                        .panels = panels.data(),
                        .column_scales = column_scales.data(),
                        .offsets = offsets.data(),
                        .bias = bias.data(),
                        .residual = residual ? residual->data() : nullptr,
                        .c = narrow ? static_cast<void*>(result.data()) : out.mutable_data(),
                        .ldc = narrow ? stride : n,
                        .n = n,
                        .k = k,
                        .epilogue = residual ? Epilogue::kBiasResidual : epilogue_named(activation),
                        .narrow = narrow};
    dtype_.gemm(args, 0, m, 0, (n + kernels_.panel_width - 1) / kernels_.panel_width);
    if (narrow) widen(result, n, stride, out);
  }

  // softmax(q k^T / sqrt(head_dim)) v of one attention head on activations of the dtype, into `out`.
  void attention(const Floats& q, const Floats& k, const Floats& v, Floats out) {
    require(
        q.ndim() == 2 && k.ndim() == 2 && q.shape(1) == k.shape(1) && k.size() == v.size() && out.size() == q.size(),
        "q and out [queries, head_dim], k and v [keys, head_dim]");
    const int64_t head_dim = q.shape(1);
    Pages scratch(dtype_.attention_scratch(k.shape(0), head_dim));
    std::memset(scratch.data(), 0xFF, static_cast<size_t>(scratch.bytes()));
    const Pages q_in = activations(q), k_in = activations(k), v_in = activations(v);
    const Pages result(q.size() * dtype_.activation_bytes);
    dtype_.attention({.q = q_in.data(),
                      .k = k_in.data(),
                      .v = v_in.data(),
                      .ldq = head_dim,
                      .ldk = head_dim,
                      .ldv = head_dim,
                      .queries = q.shape(0),
                      .keys = k.shape(0),
                      .head_dim = head_dim,
                      .scale = 1.0f / std::sqrt(static_cast<float>(head_dim)),
                      .scratch = scratch.data(),
                      .out = result.data(),
                      .ldo = head_dim});
    widen(result, head_dim, head_dim, out);
  }

  void layer_norm(const Floats& x, const Floats& gamma, const Floats& beta, float eps, Floats out) {
    require(x.ndim() == 2 && gamma.size() == x.shape(1) && beta.size() == x.shape(1) && out.size() == x.size(),
            "x and out [rows, n], gamma and beta [n]");
    kernels_.layer_norm(x.data(), gamma.data(), beta.data(), eps, x.shape(0), x.shape(1), out.mutable_data());
  }

  // layer_norm(word + position) of one row.
  void embed(const Floats& word, const Floats& position, const Floats& gamma, const Floats& beta, float eps,
             Floats out) {
    const py::ssize_t n = word.size();
    require(position.size() == n && gamma.size() == n && beta.size() == n && out.size() == n, "all of one width");
    kernels_.embed(word.data(), position.data(), gamma.data(), beta.data(), eps, n, out.mutable_data());
  }

 private:
  // Activations [rows, n] of row stride `stride` as float32.
  void widen(const Pages& from, int64_t n, int64_t stride, Floats& out) const {
    const int64_t size = dtype_.activation_bytes;
    for (int64_t i = 0; i < out.size(); ++i) {
      uint32_t bits = 0;  // a bfloat16 is the upper half of a float32
      std::memcpy(reinterpret_cast<char*>(&bits) + (4 - size), from.data() + (i / n * stride + i % n) * size,
                  static_cast<size_t>(size));
      std::memcpy(out.mutable_data() + i, &bits, 4);
    }
  }

  // Float32 values as activations; the caller gives values that they hold exactly.
  Pages activations(const Floats& x) const {
    const auto size = static_cast<size_t>(dtype_.activation_bytes);
    Pages pages(x.size() * dtype_.activation_bytes);
    for (int64_t i = 0; i < x.size(); ++i)
      std::memcpy(pages.data() + static_cast<size_t>(i) * size,
                  reinterpret_cast<const char*>(x.data() + i) + (4 - size), size);
    return pages;
  }

  const Kernels& kernels_;
  const DtypeKernels& dtype_;
};

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.def("available_isas", &isa_names, "Instruction sets that this machine and build can run, best first.");
  m.def("dtypes", &dtype_names, py::arg("isa") = "", "Dtypes that an instruction set has; '': the best one's.");
  m.def("attention", &batch_attention, py::arg("query"), py::arg("key"), py::arg("value"), py::kw_only(),
        py::arg("out"), py::arg("scale"), py::arg("key_mask").noconvert() = py::none(), py::arg("isa") = "",
        py::arg("num_threads") = 1, "softmax(scale * query key^T) value over the keys whose mask is True; see _C.pyi.");

  py::class_<PyEncoder>(m, "Encoder")
      .def(py::init<int64_t, int64_t, int64_t, int64_t, const std::string&, float, Floats, Floats, const std::string&,
                    const std::string&, int>(),
           py::kw_only(), py::arg("hidden_size"), py::arg("num_heads"), py::arg("num_layers"),
           py::arg("intermediate_size"), py::arg("activation"), py::arg("eps"), py::arg("word_embeddings").noconvert(),
           py::arg("position_embeddings").noconvert(), py::arg("isa") = "", py::arg("dtype") = "float32",
           py::arg("num_threads") = 1)
      .def("add_linear", &PyEncoder::add_linear, py::arg("name"), py::arg("weights").noconvert(),
           py::arg("biases").noconvert(), py::arg("dtype") = "float32",
           py::arg("input_scales").noconvert() = py::none(), py::arg("column_scales").noconvert() = py::none())
      .def("add_packed_linear", &PyEncoder::add_packed_linear, py::arg("name"), py::arg("k"),
           py::arg("panels").noconvert(), py::arg("column_scales").noconvert(), py::arg("offsets").noconvert(),
           py::arg("bias").noconvert(), py::arg("dtype") = "float32", py::arg("input_scales").noconvert() = py::none())
      .def("linear_parts", &PyEncoder::linear_parts, py::arg("name"))
      .def("add_layer_norm", &PyEncoder::add_layer_norm, py::arg("name"), py::arg("gamma").noconvert(),
           py::arg("beta").noconvert())
      .def("finish", &PyEncoder::finish)
      .def("forward", &PyEncoder::forward, py::arg("input_ids").noconvert(), py::arg("inputs_embeds").noconvert(),
           py::arg("position_ids").noconvert(), py::arg("cu_seqlens").noconvert(), py::arg("key_lengths").noconvert(),
           py::arg("all_layers") = false, py::arg("wanted").noconvert() = py::none())
      .def("linear", &PyEncoder::linear, py::arg("name"), py::arg("rows").noconvert(), py::arg("activation") = "")
      .def("layer_norm", &PyEncoder::layer_norm, py::arg("name"), py::arg("rows").noconvert())
      .def("poison_workspace", &PyEncoder::poison_workspace)
      .def_property_readonly("isa", &PyEncoder::isa)
      .def_property_readonly("dtype", &PyEncoder::dtype)
      .def_property_readonly("num_threads", &PyEncoder::threads)
      .def_property_readonly("packed_bytes", &PyEncoder::packed_bytes)
      .def_property_readonly("workspace_bytes", &PyEncoder::workspace_bytes);

  py::class_<PyKernels>(m, "Kernels")
      .def(py::init<const std::string&, const std::string&>(), py::arg("isa"), py::arg("dtype") = "float32")
      .def("linear", &PyKernels::linear, py::arg("x").noconvert(), py::arg("weight").noconvert(),
           py::arg("bias").noconvert(), py::arg("activation") = "", py::kw_only(),
           py::arg("residual").noconvert() = py::none(), py::arg("narrow") = false,
           py::arg("input_scales").noconvert() = py::none(), py::arg("out").noconvert())
      .def("attention", &PyKernels::attention, py::arg("q").noconvert(), py::arg("k").noconvert(),
           py::arg("v").noconvert(), py::kw_only(), py::arg("out").noconvert())
      .def("layer_norm", &PyKernels::layer_norm, py::arg("x").noconvert(), py::arg("gamma").noconvert(),
           py::arg("beta").noconvert(), py::arg("eps"), py::kw_only(), py::arg("out").noconvert())
      .def("embed", &PyKernels::embed, py::arg("word").noconvert(), py::arg("position").noconvert(),
           py::arg("gamma").noconvert(), py::arg("beta").noconvert(), py::arg("eps"), py::kw_only(),
           py::arg("out").noconvert());
}
