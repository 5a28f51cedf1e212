// kvt adapt --method kvt-generated: cores generated from extracted knowledge (engine/kvt_adapter.h), trained on the fused scores.
#include "engine/kvt_adapter.h"
#include "tools/adapt.h"

namespace kvt {

Method set_up_generated(const AdaptOptions& o, Goal& goal) {
  Model& model = goal.model();
  KvtOptions options;
  options.size = o.size;
  options.vectors = o.vectors;
  options.levels = o.levels;
  if (o.levels == std::vector<std::string>{"none"}) options.levels.clear();
  options.extractor = !o.no_extractor;
  options.targets = o.targets;
  options.seed = o.train.seed;
  std::tie(options.first_layer, options.last_layer) = blocks_of(o, model);

  const auto states = std::make_shared<std::vector<Tensor>>();
  if (options.extractor) *states = goal.knowledge_states(o.texts, o.knowledge_layer);
  const auto set = std::make_shared<KvtSet>(attach_kvt(model, options));
  Method method;
  if (CausalLm* lm = goal.language_model()) method.made = std::make_shared<KvtLm>(unowned(*lm), set->kvt);
  std::optional<Fusion> fusion;
  if (o.fuse != "none") fusion = Fusion{Fusion::Form::residual, o.fuse == "auto" ? 0.7f : std::stof(o.fuse)};
  const auto task = [&](Goal::Part part) {
    return std::make_unique<KvtTask>(goal.task(part, method.made, fusion), *set, *states, part == Goal::Part::training, o.mu);
  };
  method.task = task(Goal::Part::training);
  if (goal.has_validation()) method.validation = task(Goal::Part::validation);
  method.trained = trained_tensors(*set);
  for (const Trained& t : goal.head()) method.trained.push_back(t);
  const DType type = out_type(o);
  method.result = [=, &goal, &model] {
    fill_bank(*set, *states);
    Gguf file = kvt_file(*set, model.architecture(), goal.base, type);
    goal.store(file);
    return file;
  };
  return method;
}

}  // namespace kvt
