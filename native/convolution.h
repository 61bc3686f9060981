// Convolutions whose window moves by more than one pixel, and their transposes, as products of matrices: of each place of the window
// what it covers becomes a row. Images whose channels lie together.
#pragma once

#include <ATen/ATen.h>

#include "kernels.h"

namespace latente {

struct Convolution {
    at::Tensor weight;  // [narrow channels, wide channels, kernel, kernel], whatever the direction
    at::Tensor bias;    // of the channels that come out
    Window window;
    bool transposed = false;  // from narrow images to wide ones
    bool relu = false;

    // Of x [images, channels, height, width].
    at::Tensor forward(const at::Tensor& x) const;

    // From the gradient of what came out those of what went in, where that is wanted, of the weight and of the bias.
    struct Slopes {
        at::Tensor x, weight, bias;
    };
    Slopes backward(const at::Tensor& x, const at::Tensor& out, const at::Tensor& grad, bool of_x) const;

    // Whether this machine has what it takes, and the tensors are such as are gone through here.
    bool takes(const at::Tensor& x) const;

   private:
    at::Tensor lines() const;
};

}  // namespace latente
