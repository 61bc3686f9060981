// What latente asks of libtorch that tch does not offer. No exception leaves these functions.
#pragma once

#include <cstddef>

extern "C" {

// One step of AdamW in place, in one pass over its tensors. Every pointer but the last is an at::Tensor that torch-sys
// made; `steps` holds one float, the steps begun with this one. Answers 0, or 1 with a message in `message`, cut to
// `capacity` bytes and closed by a zero.
int latente_fused_adamw(void* parameters, void* gradients, void* first, void* second, void* steps, double lr,
                        double beta1, double beta2, double weight_decay, double epsilon, char* message,
                        std::size_t capacity);

}
