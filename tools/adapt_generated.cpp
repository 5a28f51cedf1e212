// kvt adapt --method kvt-generated: cores generated from extracted knowledge (engine/kvt_adapter.h), trained on the fused scores.
#include "engine/kvt_adapter.h"
#include "tools/adapt.h"

namespace kvt {

Method set_up_generated(const AdaptOptions& o, LoadedModel& m, const std::string& base, const Examples& data) {
  KvtOptions options;
  options.size = o.size;
  options.vectors = o.vectors;
  options.levels = o.levels;
  if (o.levels == std::vector<std::string>{"none"}) options.levels.clear();
  options.extractor = !o.no_extractor;
  options.targets = o.targets;
  options.seed = o.train.seed;
  std::tie(options.first_layer, options.last_layer) = parse_blocks(o.layers);

  const auto states = std::make_shared<std::vector<Tensor>>();
  if (options.extractor) *states = knowledge_states(*m.model, data, o.texts, o.knowledge_layer);
  const auto set = std::make_shared<KvtSet>(attach_kvt(*m.model, options));
  const auto adapted = std::make_shared<KvtLm>(unowned(*m.model), set->kvt);
  std::shared_ptr<CausalLm> model = adapted;
  if (o.fuse != "none") model = std::make_shared<Fused>(adapted, Fusion{Fusion::Form::residual, o.fuse == "auto" ? 0.7f : std::stof(o.fuse)});
  const DType type = o.out_type == "F16" ? DType::F16 : DType::F32;
  return {trained_tensors(*set),
          [=, &m] {
            fill_bank(*set, *states);
            return kvt_file(*set, m.model->architecture(), base, type);
          },
          adapted,
          [=](const Examples& examples, bool learned) { return std::make_unique<KvtTask>(*model, *set, *states, examples, learned, o.mu); }};
}

}  // namespace kvt
