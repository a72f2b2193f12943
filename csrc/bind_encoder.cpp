// A loaded model.

#include "bindings.h"  // first, since it includes Python.h

#include <algorithm>
#include <cmath>
#include <optional>
#include <type_traits>
#include <variant>

#include "dispatch.h"
#include "encoder.h"

namespace distilrt {
namespace {

// float32, or the bits of bfloat16.
using FloatsOrHalves = std::variant<Floats, py::array_t<uint16_t, py::array::c_style>>;

// A model together with the embedding tables and panels that it borrows.
class PyEncoder {
 public:
  PyEncoder(int64_t hidden_size, int64_t num_heads, int64_t num_layers, int64_t intermediate_size,
            const std::string& activation, float eps, FloatsOrHalves word, FloatsOrHalves position,
            const std::string& isa, const std::string& dtype, int num_threads, const std::vector<int>& cpus)
      : word_(std::move(word)),
        position_(std::move(position)),
        hidden_size_(hidden_size),
        num_layers_(num_layers),
        encoder_({.hidden_size = hidden_size,
                  .num_heads = num_heads,
                  .num_layers = num_layers,
                  .intermediate_size = intermediate_size,
                  .words = table_of(word_, hidden_size),
                  .positions = table_of(position_, hidden_size),
                  .activation = epilogue_named(activation),
                  .eps = eps},
                 find_kernels(isa), find_dtype(find_kernels(isa), dtype), threads_of(num_threads, cpus)) {
    require(hidden_size >= 1 && num_layers >= 1 && intermediate_size >= 1,
            "hidden_size, num_layers and intermediate_size must be at least 1");
    require(num_heads >= 1 && hidden_size % num_heads == 0, "hidden_size must be divisible by num_heads");
    require(std::isfinite(eps) && eps > 0, "eps must be finite and above 0");
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
    const py::ssize_t n = bias.size(), scaled = kernels.quantized ? n : 0;
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
        py::arg("k") = linear.k,
        py::arg("panels") = view(static_cast<const uint8_t*>(linear.packed.data), linear.bytes()),
        py::arg("column_scales") = floats(linear.packed.column_scales),
        py::arg("offsets") = view(linear.packed.offsets.data(), static_cast<int64_t>(linear.packed.offsets.size())),
        py::arg("bias") = floats(linear.bias), py::arg("dtype") = linear.kernels->dtype,
        py::arg("input_scales") = linear.input_scales.empty() ? py::object(py::none()) : floats(linear.input_scales));
  }

  void add_layer_norm(const std::string& name, const Floats& gamma, const Floats& beta) {
    require(gamma.size() == hidden_size_ && beta.size() == hidden_size_, "'" + name + "' needs hidden_size parameters");
    encoder_.add_layer_norm(name, gamma.data(), beta.data(), hidden_size_);
  }

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

  Encoder& encoder() { return encoder_; }

 private:
  static void require_scales(const std::string& name, const std::optional<Floats>& scales, int64_t size,
                             const DtypeKernels& kernels) {
    if (!scales) return;
    require(kernels.quantized, "'" + name + "' has scales, which only int8 has");
    require(scales->size() == size && std::all_of(scales->data(), scales->data() + size,
                                                  [](float scale) { return std::isfinite(scale) && scale >= 0; }),
            "'" + name + "' needs " + std::to_string(size) + " finite scales of at least 0");
  }

  static Table table_of(const FloatsOrHalves& table, int64_t width) {
    const auto& array = std::visit([](const auto& kind) -> const py::array& { return kind; }, table);
    require(array.ndim() == 2 && array.shape(1) == width, "embedding tables must be [rows, hidden_size]");
    if (const auto* floats = std::get_if<Floats>(&table)) return {floats->data(), nullptr, array.shape(0)};
    return {nullptr, std::get<1>(table).data(), array.shape(0)};
  }

  const FloatsOrHalves word_, position_;
  const int64_t hidden_size_, num_layers_;
  std::vector<Bytes> borrowed_;
  Encoder encoder_;
};

}  // namespace

void bind_encoder(py::module_& m) {
  py::class_<PyEncoder>(m, "Encoder")
      .def(py::init<int64_t, int64_t, int64_t, int64_t, const std::string&, float, FloatsOrHalves, FloatsOrHalves,
                    const std::string&, const std::string&, int, const std::vector<int>&>(),
           py::kw_only(), py::arg("hidden_size"), py::arg("num_heads"), py::arg("num_layers"),
           py::arg("intermediate_size"), py::arg("activation"), py::arg("eps"), array_arg("word_embeddings"),
           array_arg("position_embeddings"), py::arg("isa") = "", py::arg("dtype") = "float32",
           py::arg("num_threads") = 1, py::arg("cpus") = std::vector<int>())
      .def("add_linear", &PyEncoder::add_linear, py::arg("name"), array_arg("weights"), array_arg("biases"),
           py::arg("dtype") = "float32", array_arg("input_scales") = py::none(),
           array_arg("column_scales") = py::none())
      .def("add_packed_linear", &PyEncoder::add_packed_linear, py::arg("name"), py::arg("k"), array_arg("panels"),
           array_arg("column_scales"), array_arg("offsets"), array_arg("bias"), py::arg("dtype") = "float32",
           array_arg("input_scales") = py::none())
      .def("linear_parts", &PyEncoder::linear_parts, py::arg("name"))
      .def("add_layer_norm", &PyEncoder::add_layer_norm, py::arg("name"), array_arg("gamma"), array_arg("beta"))
      .def("finish", [](PyEncoder& self) { self.encoder().finish(); })
      .def("forward", &PyEncoder::forward, array_arg("input_ids"), array_arg("inputs_embeds"),
           array_arg("position_ids"), array_arg("cu_seqlens"), array_arg("key_lengths"), py::arg("all_layers") = false,
           array_arg("wanted") = py::none())
      .def("linear", &PyEncoder::linear, py::arg("name"), array_arg("rows"), py::arg("activation") = "")
      .def("layer_norm", &PyEncoder::layer_norm, py::arg("name"), array_arg("rows"))
      // NaN in float32 and bfloat16.
      .def("poison_workspace", [](PyEncoder& self) { self.encoder().fill_workspace(0xFF); })
      .def_property_readonly("isa", [](PyEncoder& self) { return self.encoder().kernels().isa; })
      .def_property_readonly("dtype", [](PyEncoder& self) { return self.encoder().dtype().dtype; })
      .def(
          "set_threads",
          [](PyEncoder& self, int num_threads, const std::vector<int>& cpus) {
            self.encoder().set_threads(threads_of(num_threads, cpus));
          },
          py::arg("num_threads"), py::arg("cpus") = std::vector<int>())
      .def_property_readonly("num_threads", [](PyEncoder& self) { return self.encoder().threads().count; })
      .def_property_readonly("weight_bits", [](PyEncoder& self) { return self.encoder().weight_bits(); })
      .def_property_readonly("packed_bytes", [](PyEncoder& self) { return self.encoder().packed_bytes(); })
      .def_property_readonly("workspace_bytes", [](PyEncoder& self) { return self.encoder().workspace_bytes(); });
}

}  // namespace distilrt
