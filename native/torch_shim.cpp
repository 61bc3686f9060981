#include "caught.h"
#include "torch_shim.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/_fused_adamw.h>

namespace {

at::TensorList one(void* tensor) { return at::TensorList(static_cast<at::Tensor*>(tensor), 1); }

}  // namespace

int latente_fused_adamw(void* parameters, void* gradients, void* first, void* second, void* steps, double lr,
                        double beta1, double beta2, double weight_decay, double epsilon, char* message,
                        std::size_t capacity) {
    return caught(message, capacity, [&] {
        at::_fused_adamw_(one(parameters), one(gradients), one(first), one(second), {}, one(steps), lr, beta1, beta2,
                          weight_decay, epsilon, /*amsgrad=*/false, /*maximize=*/false);
    });
}
