// KVT adapters with generated cores (models/kvt.h): on the layers of a model, in training, and as files.
//
//   general.type "adapter"    general.architecture = the base's    adapter.type "kvt"    kvt.base.fingerprint, kvt.fusion.* as for LoRA
//   kvt.levels string         "concept,sentence,word" or fewer; "" = the constant core
//   kvt.scale f32             s
//   kvt.layers string[]       the adapted layers, in the order of their cores
//   tensors: kvt.bank K [m, k], kvt.w_alpha [k], kvt.alpha.weight [k, C], kvt.mlp_up.weight, .bias, kvt.gates [3] (none of them for the
//            constant core), kvt.mlp_down.weight, .bias (W_2 and the constant cores), and for each layer
//            <layer>.weight.kvt_a A [t, in], <layer>.weight.kvt_b B [out, k]
#pragma once
#include <optional>

#include "engine/gguf.h"
#include "engine/sentence_pairs.h"
#include "engine/train.h"
#include "models/bert.h"
#include "models/fusion.h"
#include "models/knowledge.h"
#include "models/kvt.h"

namespace kvt {

struct KvtOptions {
  int64_t size = 0, vectors = 0, columns = 0;        // k, m, t; 0: k = √C/4 and at least 4, m = t = k
  std::vector<std::string> levels = {"concept", "sentence", "word"};
  bool extractor = true;                             // K comes from a DKE; else K itself is trained
  float scale = 2;                                   // s
  std::vector<std::string> targets = {"all"};        // layers, as for LoRA (engine/adapter.h)
  int64_t first_layer = 0, last_layer = -1;
  uint64_t seed = 0;
};

struct KvtSet {
  struct Layer {
    std::string name;
    std::shared_ptr<GeneratedCore> core;
    std::shared_ptr<Adapter> attached;               // the core, or once loaded the LoRA that it folds into
  };
  std::shared_ptr<Kvt> kvt;
  std::vector<Layer> layers;
  std::shared_ptr<KnowledgeExtractor> extractor;     // in training, if there is one
  std::optional<Fusion> fusion;
};

// Gives the targeted layers of `model` cores of one new Kvt. Run a language model through KvtLm, others make them themselves. Throws for a level or target there is none of.
KvtSet attach_kvt(Model& model, const KvtOptions& options);
TrainedSet trained_tensors(const KvtSet& set);

// What the extractor reads: H_l of the first `texts` examples of the data, a tensor [T, C] each, of the model as it is (so: before
// attach_kvt). `layer` = l counts blocks, −1 = all; the states pass the model's last norm, so that their size does not grow with l.
std::vector<Tensor> knowledge_states(const CausalLm& model, const Examples& data, int64_t texts, int64_t layer = -1);
std::vector<Tensor> knowledge_states(const Bert& model, const Examples& data, int64_t texts, int64_t layer = -1);
std::vector<Tensor> knowledge_states(const Seq2Seq& model, const SentencePairs& pairs, int64_t texts, int64_t layer = -1);      // of the sources, in the encoder

// Puts K of all `states` in the bank of `set`, with the extractor as for inference: the bank that is stored.
void fill_bank(const KvtSet& set, const std::vector<Tensor>& states);

// A task with cores from knowledge that is extracted anew for each batch:  the task's loss + μ‖G‖₁ / (T C).
// In training K is of some of the texts with sampled gates, never of one that is being learned; in validation of all.
class KvtTask : public Task {
 public:
  // `task` is one of the model that bears `set` (a KvtLm of it), fused or not. `learns_texts`: its example i is the text of states[i]. `set` and `states` must outlive it.
  KvtTask(std::shared_ptr<const Task> task, const KvtSet& set, const std::vector<Tensor>& states, bool learns_texts, float mu)
      : task_(std::move(task)), set_(set), states_(states), learns_texts_(learns_texts), mu_(mu) {}
  int64_t size() const override { return task_->size(); }
  Extent extent(std::span<const int64_t> indices) const override { return task_->extent(indices); }
  BatchOrder order(int64_t batch, uint64_t seed) const override { return task_->order(batch, seed); }
  Tensor loss(std::span<const int64_t> indices, const Pass& pass) const override;

 private:
  std::shared_ptr<const Task> task_;
  const KvtSet& set_;
  const std::vector<Tensor>& states_;
  bool learns_texts_;
  float mu_;
};

// The file's contents; `type` of A, B and the MLP's matrices F32 or F16.
Gguf kvt_file(const KvtSet& set, const std::string& architecture, const std::string& base, DType type);
// Attaches the adapter of `file`, its B times `scale`: cores that depend on no input as plain LoRA (`kvt` is then of no use), else to be
// run through KvtLm if it is a language model. Throws an Error naming file and tensor for what does not fit, and for another
// architecture or base unless `any_base`; no layer has changed then.
KvtSet load_kvt(Model& model, const Gguf& file, float scale, const std::string& base, bool any_base = false);

}  // namespace kvt
