// Single ops of one instruction set and dtype, for tests and op benches.

#include "bindings.h"  // first, since it includes Python.h

#include <cmath>
#include <cstring>
#include <optional>

#include "arena.h"
#include "dispatch.h"

namespace distilrt {
namespace {

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
    Pages panels(dtype_.packed_bytes(n, k)), operand(m * operand_stride(k, dtype_.lane) * 4);
    std::vector<float> column_scales(static_cast<size_t>(n)), row_scales(static_cast<size_t>(2 * m));
    std::vector<int32_t> offsets(static_cast<size_t>(n));
    const int64_t stride = activation_stride(n, dtype_.activation_bytes);
    const Pages result(narrow ? m * stride * dtype_.activation_bytes : 0);
    dtype_.pack(weight.data(), k, 0, n, {panels.data(), column_scales.data(), offsets.data(), false});
    if (dtype_.narrow != nullptr)
      dtype_.narrow(panels.data(), k, n, {panels.data(), column_scales.data(), offsets.data(), true});
    if (dtype_.convert != nullptr)
      dtype_.convert(x.data(), m, k, input_scales ? input_scales->data() : nullptr, operand.data(), row_scales.data());
    const GemmArgs args{.a = dtype_.convert != nullptr ? static_cast<const void*>(operand.data()) : x.data(),
                        .lda = dtype_.convert != nullptr ? operand_stride(k, dtype_.lane) : k,
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

Epilogue epilogue_named(const std::string& activation) {
  if (activation == "gelu") return Epilogue::kBiasGelu;
  if (activation == "gelu_new" || activation == "gelu_pytorch_tanh") return Epilogue::kBiasGeluTanh;
  if (activation == "relu") return Epilogue::kBiasRelu;
  if (activation == "silu") return Epilogue::kBiasSilu;
  if (activation.empty()) return Epilogue::kBias;
  throw std::invalid_argument("unknown activation '" + activation + "'");
}

void bind_kernels(py::module_& m) {
  py::class_<PyKernels>(m, "Kernels")
      .def(py::init<const std::string&, const std::string&>(), py::arg("isa"), py::arg("dtype") = "float32")
      .def("linear", &PyKernels::linear, array_arg("x"), array_arg("weight"), array_arg("bias"),
           py::arg("activation") = "", py::kw_only(), array_arg("residual") = py::none(), py::arg("narrow") = false,
           array_arg("input_scales") = py::none(), array_arg("out"))
      .def("attention", &PyKernels::attention, array_arg("q"), array_arg("k"), array_arg("v"), py::kw_only(),
           array_arg("out"))
      .def("layer_norm", &PyKernels::layer_norm, array_arg("x"), array_arg("gamma"), array_arg("beta"), py::arg("eps"),
           py::kw_only(), array_arg("out"));
}

}  // namespace distilrt
