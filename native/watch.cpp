// What tests look through: the way of another device on the host, and how often it would be waited for.
#include "stack.h"
#include "torch_shim.h"

#include <ATen/record_function.h>

#include <algorithm>
#include <array>
#include <string_view>

namespace {

thread_local bool pretends = false;
thread_local std::uint64_t asked = 0;
thread_local at::CallbackHandle watching = at::INVALID_CALLBACK_HANDLE;

// Operations whose result, or its shape, the host has to know before it goes on.
constexpr std::array<std::string_view, 8> ANSWERS{"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select",
                                                  "aten::equal", "aten::_unique2", "aten::is_nonzero", "aten::linalg_cholesky",
                                                  "aten::_linalg_eigh"};

// On the host it asks for the number of its step, which it reads on a GPU.
constexpr std::string_view ASKS_HERE_ONLY = "aten::_fused_adamw_";
thread_local int within = 0;

std::unique_ptr<at::ObserverContext> begin(const at::RecordFunction& function) {
    const std::string_view name = function.name();
    if (name == ASKS_HERE_ONLY) ++within;
    if (within == 0 && std::find(ANSWERS.begin(), ANSWERS.end(), name) != ANSWERS.end()) ++asked;
    return nullptr;
}

void end(const at::RecordFunction& function, at::ObserverContext*) {
    if (function.name() == ASKS_HERE_ONLY) --within;
}

}  // namespace

namespace latente {

bool pretends_elsewhere() { return pretends; }

}  // namespace latente

void latente_pretend_elsewhere(bool pretend) { pretends = pretend; }

std::uint64_t latente_watch(bool watch) {
    if (watch && watching == at::INVALID_CALLBACK_HANDLE) {
        asked = 0;
        watching = at::addThreadLocalCallback(at::RecordFunctionCallback(&begin, &end).scopes({at::RecordScope::FUNCTION}));
    } else if (!watch && watching != at::INVALID_CALLBACK_HANDLE) {
        at::removeCallback(watching);
        watching = at::INVALID_CALLBACK_HANDLE;
    }
    return asked;
}
