// Adaptation of the C interface: data and options as the engine takes them, and progress.
#include "engine/c_api.h"
#include "engine/c_api_data.h"

#ifdef KVT_TRAINING

#include "engine/adapt.h"

namespace kvt::c_api {

namespace {

std::vector<std::string> split(std::string_view list) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= list.size();) {
    const size_t comma = std::min(list.find(',', begin), list.size());
    parts.emplace_back(list.substr(begin, comma - begin));
    begin = comma + 1;
  }
  return parts;
}

AdaptSettings settings(const kvt_adapt_options& o) {
  constexpr int64_t most = INT32_MAX;
  AdaptSettings s;
  if (o.method) s.method = o.method;
  if (o.core) s.core = o.core;
  if (o.targets) s.targets = split(o.targets);
  s.first_layer = counted(o.first_layer, -1, most, "first_layer");
  s.k = counted(o.k, 8, 4096, "k");
  s.rounds = counted(o.rounds, 8, 4096, "rounds");
  s.rank = counted(o.rank, 8, 1 << 16, "rank");
  if (o.alpha != 0) s.alpha = o.alpha;
  if (o.eta != 0) s.eta = o.eta;
  s.portion = counted(o.portion, 0, most, "portion");
  s.refine = counted(o.refine, 0, most, "refine");
  s.learn_validation = o.learn_validation != 0;
  expect(o.mean_rank == 0 || (o.mean_rank >= 1 && o.mean_rank <= 1e4), "options: mean_rank is ", o.mean_rank, ", expected 0, or 1 to 10000");
  s.mean_rank = o.mean_rank;
  s.length = counted(o.length, 256, 1 << 24, "length");
  TrainOptions& t = s.train;
  t.steps = counted(o.steps, 0, most, "steps");
  t.epochs = counted(o.epochs, 1, most, "epochs");
  t.batch = counted(o.batch, 4, 1 << 16, "batch");
  t.accumulate = counted(o.accumulate, 1, 1 << 16, "accumulate");
  t.lr = o.learning_rate;
  if (o.schedule) t.schedule = schedule_kind(o.schedule);
  t.warmup = counted(o.warmup, 0, most, "warmup");
  t.eval_every = counted(o.eval_every, 0, most, "eval_every");
  t.patience = counted(o.patience, 0, most, "patience");
  t.save_every = counted(o.save_every, 0, most, "save_every");
  t.seed = o.seed;
  t.precision = o.bf16 ? Precision::bf16 : Precision::f32;
  t.recompute = o.recompute != 0;
  if (o.checkpoint) s.checkpoint = o.checkpoint;
  s.resume = o.resume != 0;
  return s;
}

// What the engine tells on the way, as kvt_progress.
AdaptCallbacks callbacks(Reporter& report, const AdaptSettings& s, const Log& log) {
  AdaptCallbacks on;
  kvt_progress& p = report.state;
  if (s.in_rounds()) p.round = 1, p.rounds = uint64_t(s.method == "kvt" ? s.rounds + (s.refine > 0) : 1);
  on.cancelled = [&report] { return report.cancelled(); };
  on.step = [&report, &p](const StepReport& r) {
    p.loss = r.loss, p.learning_rate = r.lr, p.tokens_per_second = r.tokens_per_second, p.seconds_left = r.seconds_left;
    report(KVT_STAGE_TRAINING, uint64_t(r.step), uint64_t(r.steps));
  };
  on.validation = [&report, &p](const ValidationReport& r) {
    p.validation_loss = r.loss;
    const kvt_progress before = p;
    report(KVT_STAGE_VALIDATING, uint64_t(r.step), 0);
    p.stage = before.stage, p.done = before.done, p.total = before.total;
  };
  on.extracting = [&report, &p](const ExtractProgress& r) {
    p.loss = r.loss;
    report(KVT_STAGE_EXTRACTING, uint64_t(r.done), uint64_t(r.examples));
  };
  on.trial = [&report](float, double) { report(KVT_STAGE_VALIDATING, 0, 0); };
  on.round = [&report, &p, log](const RoundReport& r) {
    log(KVT_LOG_INFO, "round ", r.round, ": validation loss ", r.before, " -> ", r.loss, ", step ", r.eta, ", rank ", r.rank);
    p.validation_loss = r.loss, p.seconds_left = r.seconds_left;
    report(KVT_STAGE_VALIDATING, 0, 0);
    p.round = uint64_t(r.round) + 1;
  };
  return on;
}

}  // namespace

}  // namespace kvt::c_api

using namespace kvt;
using namespace kvt::c_api;

kvt_status kvt_adapt(kvt_model* model, const kvt_data* data, const kvt_adapt_options* options, kvt_adapter** adapter) {
  return guard({.model = model ? model->state.get() : nullptr, .otherwise = KVT_ERROR}, [&] {
    const Shared& m = given(model, "model").state;
    given(data, "data");
    given(adapter, "adapter");
    const kvt_adapt_options o = options_of(options);
    const AdaptSettings s = settings(o);
    expect(o.validation_split >= 0 && o.validation_split < 1, "validation_split is ", o.validation_split);
    if (m->encoder) refuse(KVT_UNSUPPORTED, "adapt: a model of architecture '", m->architecture, "' is no language model");
    Examples examples = examples_of(*m, *data, s.length);
    std::optional<Examples> validation;
    const double share = o.validation_split > 0 ? o.validation_split : s.in_rounds() ? 0.2 : 0;
    if (o.validation) validation = examples_of(*m, *o.validation, s.length);
    else if (share > 0) validation = examples.split(share);

    Reporter report(o.progress, o.progress_user);
    const auto lm = m->view();
    std::optional<Gguf> file = adapt(*lm, m->fingerprint, examples, validation ? &*validation : nullptr, s, callbacks(report, s, m->log));
    if (!file) fail_as(Trouble::cancelled, "adapt: cancelled", s.checkpoint.empty() ? "" : "; to go on, call again with resume (checkpoint " + s.checkpoint + ")");
    *adapter = new kvt_adapter{std::make_shared<AdapterState>(AdapterState{m, std::move(*file)})};
  });
}

kvt_status kvt_adapt_memory_needed(const kvt_model* model, const kvt_adapt_options* options, uint64_t* bytes) {
  return guard({.model = model ? model->state.get() : nullptr, .otherwise = KVT_INVALID_ARGUMENT}, [&] {
    const ModelState& m = *given(model, "model").state;
    given(bytes, "bytes");
    if (m.encoder) refuse(KVT_UNSUPPORTED, "adapt: a model of architecture '", m.architecture, "' is no language model");
    const kvt_adapt_options o = options_of(options);
    const AdaptSettings s = settings(o);
    *bytes = uint64_t(s.bytes(*m.view(), o.validation || o.validation_split > 0 || s.in_rounds()));
  });
}

#else

using namespace kvt::c_api;

kvt_status kvt_adapt(kvt_model*, const kvt_data*, const kvt_adapt_options*, kvt_adapter**) { return without_training(); }
kvt_status kvt_adapt_memory_needed(const kvt_model*, const kvt_adapt_options*, uint64_t*) { return without_training(); }

#endif
