#include "convolution.h"

#include "room.h"
#include "stack.h"

#include <ATen/Parallel.h>

#include <algorithm>

namespace latente {

namespace {

// Images are divided among so many lanes, whatever the number of threads: what is summed over images is summed in one order.
constexpr std::int64_t LANES = 16;
// Numbers of a lane's columns at a time, which stay in the cache of a core.
constexpr std::int64_t AT_ONCE = 1 << 16;

constexpr at::MemoryFormat TOGETHER = at::MemoryFormat::ChannelsLast;

struct Sizes {
    std::int64_t wide;    // numbers of a wide image
    std::int64_t narrow;  // of a narrow one
    std::int64_t places;  // of the window in an image
    std::int64_t depth;   // numbers that the window covers
    std::int64_t at_once; // images

    explicit Sizes(const Window& window)
        : wide(window.wide_height * window.wide_width * window.wide_channels),
          narrow(window.narrow_height * window.narrow_width * window.narrow_channels),
          places(window.narrow_height * window.narrow_width),
          depth(window.kernel * window.kernel * window.wide_channels),
          at_once(std::max<std::int64_t>(1, AT_ONCE / std::max<std::int64_t>(1, places * depth))) {}
};

thread_local Room<float> columns_room, slope_room;

// `work(lane, first, count)` for the images of each lane, a few at a time.
template <typename Work>
void by_lanes(std::int64_t images, std::int64_t at_once, Work work) {
    const std::int64_t lanes = std::min(LANES, images);
    at::parallel_for(0, lanes, 1, [&](std::int64_t start, std::int64_t end) {
        for (std::int64_t lane = start; lane < end; ++lane) {
            const std::int64_t last = (lane + 1) * images / lanes;
            for (std::int64_t first = lane * images / lanes; first < last; first += at_once) {
                work(lane, first, std::min(at_once, last - first));
            }
        }
    });
}

void gather(const float* wide, float* columns, std::int64_t images, const Window& window, const Sizes& sizes) {
    for (std::int64_t image = 0; image < images; ++image) {
        gather_patches(wide + image * sizes.wide, columns + image * sizes.places * sizes.depth, window);
    }
}

void scatter(const float* columns, float* wide, std::int64_t images, const Window& window, const Sizes& sizes) {
    for (std::int64_t image = 0; image < images; ++image) {
        scatter_patches(columns + image * sizes.places * sizes.depth, wide + image * sizes.wide, window);
    }
}

}  // namespace

bool Convolution::takes(const at::Tensor& x) const {
    return has_products() && x.dim() == 4 && x.numel() > 0 && x.is_cpu() && x.scalar_type() == at::kFloat &&
           x.is_contiguous(TOGETHER) && plain(weight) && plain(bias);
}

// [narrow channels, what the window covers], in the order in which it lies in images.
at::Tensor Convolution::lines() const { return weight.permute({0, 2, 3, 1}).contiguous(); }

at::Tensor Convolution::forward(const at::Tensor& x) const {
    const Sizes sizes(window);
    const std::int64_t images = x.size(0), channels = transposed ? window.wide_channels : window.narrow_channels;
    at::Tensor out = transposed ? at::empty({images, channels, window.wide_height, window.wide_width}, x.options(), TOGETHER)
                                : at::empty({images, channels, window.narrow_height, window.narrow_width}, x.options(), TOGETHER);
    const at::Tensor by = lines();
    const float *from = x.data_ptr<float>(), *with = by.data_ptr<float>(), *added = bias.data_ptr<float>();
    float* to = out.data_ptr<float>();
    by_lanes(images, sizes.at_once, [&](std::int64_t, std::int64_t first, std::int64_t count) {
        const std::int64_t places = count * sizes.places;
        float* columns = columns_room.of(places * sizes.depth);
        if (transposed) {
            product(from + first * sizes.narrow, false, with, false, columns, {places, sizes.depth, window.narrow_channels}, false);
            float* wide = to + first * sizes.wide;
            repeat(added, channels, wide, count * sizes.wide);
            scatter(columns, wide, count, window, sizes);
            if (relu) clip(wide, count * sizes.wide);
        } else {
            gather(from + first * sizes.wide, columns, count, window, sizes);
            float* narrow = to + first * sizes.narrow;
            product(columns, false, with, true, narrow, {places, channels, sizes.depth}, false);
            for (std::int64_t place = 0; place < places; ++place) {
                add_bias(narrow + place * channels, added, narrow + place * channels, channels, relu);
            }
        }
    });
    return out;
}

Convolution::Slopes Convolution::backward(const at::Tensor& x, const at::Tensor& out, const at::Tensor& given, bool of_x) const {
    const Sizes sizes(window);
    const at::Tensor grad = given.contiguous(TOGETHER);
    const std::int64_t images = x.size(0), channels = transposed ? window.wide_channels : window.narrow_channels;
    const std::int64_t lanes = std::min(LANES, images), weights = window.narrow_channels * sizes.depth;
    const std::int64_t came = transposed ? sizes.wide : sizes.narrow, went = transposed ? sizes.narrow : sizes.wide;
    // Of each lane the sums over its images, of the weight and then of the bias.
    at::Tensor sums = at::zeros({lanes, weights + channels}, x.options());
    Slopes found;
    if (of_x) found.x = at::empty_like(x, TOGETHER);
    const at::Tensor by = lines();
    const float *from = x.data_ptr<float>(), *with = by.data_ptr<float>(), *seen = relu ? out.data_ptr<float>() : nullptr;
    const float* all = grad.data_ptr<float>();
    float *summed = sums.data_ptr<float>(), *back = of_x ? found.x.data_ptr<float>() : nullptr;
    by_lanes(images, sizes.at_once, [&](std::int64_t lane, std::int64_t first, std::int64_t count) {
        const std::int64_t places = count * sizes.places, narrow = window.narrow_channels;
        float *columns = columns_room.of(places * sizes.depth), *of_weight = summed + lane * (weights + channels);
        const float* slope = all + first * came;
        if (relu) {
            float* let = slope_room.of(count * came);
            let_above(slope, seen + first * came, let, count * came);
            slope = let;
        }
        add_rows(slope, count * came / channels, channels, of_weight + weights);
        if (transposed) {
            gather(slope, columns, count, window, sizes);
            product(from + first * went, true, columns, false, of_weight, {narrow, sizes.depth, places}, true);
            if (of_x) product(columns, false, with, true, back + first * went, {places, narrow, sizes.depth}, false);
        } else {
            gather(from + first * went, columns, count, window, sizes);
            product(slope, true, columns, false, of_weight, {narrow, sizes.depth, places}, true);
            if (of_x) {
                product(slope, false, with, false, columns, {places, sizes.depth, narrow}, false);
                std::fill_n(back + first * went, count * went, 0.0f);
                scatter(columns, back + first * went, count, window, sizes);
            }
        }
    });
    at::Tensor total = at::zeros({weights + channels}, x.options());
    add_rows(summed, lanes, weights + channels, total.data_ptr<float>());
    found.weight = total.narrow(0, 0, weights)
                       .view({window.narrow_channels, window.kernel, window.kernel, window.wide_channels})
                       .permute({0, 3, 1, 2});
    found.bias = total.narrow(0, weights, channels);
    return found;
}

}  // namespace latente
