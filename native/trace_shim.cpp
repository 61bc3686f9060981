// Recording of what is computed: the tracer of TorchScript, and its graph in a form that can be read elsewhere.
#include "caught.h"
#include "torch_shim.h"

#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/frontend/tracer.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/passes/constant_pooling.h>
#include <torch/csrc/jit/passes/constant_propagation.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>
#include <torch/csrc/jit/passes/fixup_trace_scope_blocks.h>
#include <torch/csrc/jit/passes/normalize_ops.h>

#include <cstdio>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

namespace {

namespace jit = torch::jit;

struct Trace {
    jit::Module module{"Exported"};
    std::shared_ptr<jit::tracer::TracingState> state;
    std::shared_ptr<jit::Graph> graph;
    std::string text;
    std::vector<at::Tensor> constants;
};

void quote(std::ostream& out, const std::string& text) {
    out << '"';
    for (unsigned char c : text) {
        if (c == '"' || c == '\\') {
            out << '\\' << c;
        } else if (c < 0x20) {
            char escaped[8];
            std::snprintf(escaped, sizeof escaped, "\\u%04x", c);
            out << escaped;
        } else {
            out << c;
        }
    }
    out << '"';
}

template <typename Items, typename One>
void list(std::ostream& out, const Items& items, One one) {
    out << '[';
    bool first = true;
    for (const auto& item : items) {
        if (!first) out << ',';
        first = false;
        one(item);
    }
    out << ']';
}

// As text, because JSON knows neither infinities nor NaN.
void real(std::ostream& out, double value) {
    char text[40];
    std::snprintf(text, sizeof text, "\"%.17g\"", value);
    out << text;
}

// A constant as {"kind": …, "value": …}.
void constant(std::ostream& out, const c10::IValue& value, std::vector<at::Tensor>& tensors) {
    if (value.isNone()) {
        out << R"({"kind":"none"})";
    } else if (value.isTensor()) {
        out << R"({"kind":"tensor","value":)" << tensors.size() << '}';
        tensors.push_back(value.toTensor().detach());
    } else if (value.isBool()) {
        out << R"({"kind":"bool","value":)" << (value.toBool() ? "true" : "false") << '}';
    } else if (value.isInt()) {
        out << R"({"kind":"int","value":)" << value.toInt() << '}';
    } else if (value.isDouble()) {
        out << R"({"kind":"real","value":)";
        real(out, value.toDouble());
        out << '}';
    } else if (value.isString()) {
        out << R"({"kind":"text","value":)";
        quote(out, value.toStringRef());
        out << '}';
    } else if (value.isIntList()) {
        out << R"({"kind":"ints","value":)";
        list(out, value.toIntVector(), [&](int64_t item) { out << item; });
        out << '}';
    } else {
        out << R"({"kind":"other","value":)";
        quote(out, value.tagKind());
        out << '}';
    }
}

void describe(Trace& trace) {
    std::ostringstream nodes, constants, types;
    auto id = [](std::ostream& out, const jit::Value* value) { out << value->unique(); };
    bool first_node = true, first_constant = true, first_type = true;
    auto typed = [&](const jit::Value* value) {
        auto tensor = value->type()->cast<c10::TensorType>();
        if (!tensor || !tensor->scalarType() || !tensor->sizes().concrete_sizes()) return;
        if (!first_type) types << ',';
        first_type = false;
        types << '[' << value->unique() << ',';
        quote(types, c10::toString(*tensor->scalarType()));
        types << ',';
        list(types, *tensor->sizes().concrete_sizes(), [&](int64_t side) { types << side; });
        types << ']';
    };
    for (const jit::Value* input : trace.graph->inputs()) typed(input);
    for (const jit::Node* node : trace.graph->nodes()) {
        if (node->kind() == c10::prim::Constant) {
            if (!first_constant) constants << ',';
            first_constant = false;
            constants << '[' << node->output()->unique() << ',';
            constant(constants, *jit::toIValue(node->output()), trace.constants);
            constants << ']';
            continue;
        }
        if (!first_node) nodes << ',';
        first_node = false;
        nodes << R"({"operation":)";
        quote(nodes, node->kind().toQualString());
        nodes << R"(,"inputs":)";
        list(nodes, node->inputs(), [&](const jit::Value* value) { id(nodes, value); });
        nodes << R"(,"outputs":)";
        list(nodes, node->outputs(), [&](const jit::Value* value) {
            id(nodes, value);
            typed(value);
        });
        nodes << '}';
    }
    std::ostringstream text;
    text << R"({"inputs":)";
    list(text, trace.graph->inputs(), [&](const jit::Value* value) { id(text, value); });
    text << R"(,"outputs":)";
    list(text, trace.graph->outputs(), [&](const jit::Value* value) { id(text, value); });
    text << R"(,"constants":[)" << constants.str() << R"(],"types":[)" << types.str() << R"(],"nodes":[)" << nodes.str()
         << "]}";
    trace.text = text.str();
}

}  // namespace

int latente_trace_begin(const void* input, const char* name, void** trace, char* message, std::size_t capacity) {
    return caught(message, capacity, [&] {
        TORCH_CHECK(!jit::tracer::isTracing(), "a recording is under way on this thread");
        auto made = std::make_unique<Trace>();
        made->module.register_attribute("training", c10::BoolType::get(), false);
        made->state = std::make_shared<jit::tracer::TracingState>();
        made->graph = made->state->graph;
        made->graph->insertInput(0, "self")->setType(made->module._ivalue()->type());
        jit::Value* value = made->graph->addInput(name);
        const auto& tensor = *static_cast<const at::Tensor*>(input);
        value->inferTypeFrom(tensor);
        jit::tracer::setTracingState(made->state);
        made->state->setValue(tensor, value);
        *trace = made.release();
    });
}

int latente_trace_end(void* trace, const void* const* outputs, std::size_t count, char* message, std::size_t capacity) {
    auto* own = static_cast<Trace*>(trace);
    const int status = caught(message, capacity, [&] {
        TORCH_CHECK(own->state && jit::tracer::getTracingState() == own->state, "no such recording on this thread");
        std::vector<c10::IValue> results;
        for (std::size_t i = 0; i < count; ++i) results.emplace_back(*static_cast<const at::Tensor*>(outputs[i]));
        const c10::IValue whole = count == 1 ? results[0] : c10::IValue(c10::ivalue::Tuple::create(results));
        own->graph->registerOutput(own->state->getOutput(whole, 0));
        jit::tracer::setTracingState(nullptr);
        own->state.reset();
        jit::FixupTraceScopeBlocks(own->graph, &own->module);
        jit::NormalizeOps(own->graph);
        jit::ConstantPropagation(own->graph);
        jit::EliminateDeadCode(own->graph);
        jit::ConstantPooling(own->graph);
        const c10::QualifiedName name(*own->module.type()->name(), "forward");
        own->module.type()->addMethod(own->module._ivalue()->compilation_unit()->create_function(name, own->graph));
    });
    if (status != 0 && own->state) {
        jit::tracer::abandon();
        own->state.reset();
    }
    return status;
}

int latente_trace_save(void* trace, const char* path, char* message, std::size_t capacity) {
    return caught(message, capacity, [&] { static_cast<Trace*>(trace)->module.save(path); });
}

int latente_trace_graph(void* trace, const char** text, char* message, std::size_t capacity) {
    return caught(message, capacity, [&] {
        auto* own = static_cast<Trace*>(trace);
        if (own->text.empty()) describe(*own);
        *text = own->text.c_str();
    });
}

int latente_trace_constant(void* trace, std::size_t number, void** tensor, char* message, std::size_t capacity) {
    return caught(message, capacity, [&] { *tensor = new at::Tensor(static_cast<Trace*>(trace)->constants.at(number)); });
}

void latente_trace_free(void* trace) {
    auto* own = static_cast<Trace*>(trace);
    if (own == nullptr) return;
    // Nothing that throws: the state is dropped where it is still the thread's own.
    if (own->state && jit::tracer::getTracingState() == own->state) jit::tracer::abandon();
    delete own;
}
