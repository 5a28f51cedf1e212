// One cell of an experiment: data for a seed, this program run on them, and what it printed.
#include <algorithm>
#include <filesystem>
#include <sstream>

#include "engine/atomic_file.h"
#include "tensor/random.h"
#include "tools/commands.h"
#include "tools/common.h"
#include "tools/experiment.h"
#include "tools/process.h"

namespace kvt {

namespace fs = std::filesystem;
using nlohmann::json;

static void write_text(const std::string& path, const std::string& text) {
  AtomicFile file(path);
  file.write(text.data(), text.size());
  file.commit();
}

static std::string joined(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  return text;
}

CellRunner::CellRunner(const Experiment& e, std::string folder, int threads) : e_(e), folder_(std::move(folder)), kvt_(own_program()), threads_(threads) {
  fs::create_directories(folder_ + "/cells");
  if (e.kind == Experiment::Kind::language)
    for (const ExperimentDomain& d : e.domains) texts_.push_back(read_text(d.text));
  if (e.kept.empty()) return;
  const std::string all = read_text(e.kept);
  kept_ = folder_ + "/kept.txt";
  write_text(kept_, all.substr(0, size_t(std::min<int64_t>(e.kept_bytes, int64_t(all.size())))));
}

// The last line of an adaptation that found no step to gain by, and wrote nothing
static bool gained_nothing(const ProcessResult& p) {
  const size_t end = p.out.find_last_not_of('\n'), begin = end == std::string::npos ? end : p.out.find_last_of('\n', end);
  if (p.status != 1 || end == std::string::npos) return false;
  const json event = json::parse(p.out.substr(begin == std::string::npos ? 0 : begin + 1), nullptr, false);
  return event.is_object() && event.value("event", "") == "nothing";
}

std::string CellRunner::kvt(std::vector<std::string> args, CellResult* measured) const {
  args.insert(args.begin(), kvt_);
  ProcessResult p = run_process(args);
  if (p.status == 130 || interrupted()) throw Interrupted();
  std::string command;
  for (const std::string& word : args) command += (command.empty() ? "" : " ") + word;
  require(p.status == 0 || (measured && gained_nothing(p)), "experiment: status ", p.status, " of: ", command, "\n", p.error);
  if (measured) {
    measured->seconds = p.seconds;
    measured->memory = double(p.peak_memory);
  }
  return p.out;
}

double CellRunner::loss(const std::string& model, const std::vector<std::string>& more, const std::string& text) const {
  std::vector<std::string> args = {"perplexity", "-m", model, "-f", text, "-c", std::to_string(e_.length + 1), "--whole", "--json", "-t", std::to_string(threads_)};
  args.insert(args.end(), more.begin(), more.end());
  return json::parse(kvt(args)).at("nll").get<double>();
}

double CellRunner::judge(const std::string& model, const std::vector<std::string>& more, const Files& files) const {
  if (!e_.counts_errors()) return loss(model, more, files.test);
  const bool images = e_.kind == Experiment::Kind::images;
  std::vector<std::string> args = {"eval", "-m", model, images ? "--images" : "--labelled", files.test, "--json", "-t", std::to_string(threads_)};
  args.insert(args.end(), more.begin(), more.end());
  const json result = json::parse(kvt(args));
  return 100 * (1 - result.at(images ? "top1" : "right").get<double>() / result.at(images ? "images" : "texts").get<double>());
}

void CellRunner::adapt(const Cell& cell, const Files& files, CellResult& r) const {
  fs::remove(files.out);                                  // of a run that was cut off
  const ExperimentMethod& m = e_.methods[*cell.method];
  const std::string& base = m.model.empty() ? e_.model : m.model;
  const bool fuse = fuses(m);
  std::vector<std::string> args;
  if (e_.kind == Experiment::Kind::images) {
    json training = e_.training, method = m.config;
    training.update(m.training);
    if (!cell.rate.empty()) training["lr"] = std::stod(cell.rate);
    if (fuse) method["fuse"] = "auto";
    write_text(files.config, json({{"task", "image-classification"}, {"base", fs::absolute(base).string()}, {"images", files.train}, {"count", cell.size},
                                   {"validation_count", e_.validation}, {"seed", cell.seed}, {"method", method}, {"training", training}}).dump(1) + "\n");
    args = {"train", files.config, "-o", files.out, "--json", "-t", std::to_string(threads_)};
  } else {
    args = {"adapt", "-m", base, "--data", files.train, "--valid", files.validation, "-o", files.out, "--length", std::to_string(e_.length), "--json", "--seed",
            std::to_string(cell.seed), "-t", std::to_string(threads_)};
    if (e_.kind == Experiment::Kind::labelled) args.insert(args.end(), {"--task", "classify"});
    args.insert(args.end(), e_.args.begin(), e_.args.end());
    args.insert(args.end(), m.args.begin(), m.args.end());
    if (!cell.rate.empty()) args.insert(args.end(), {"--lr", cell.rate});
    if (fuse) args.insert(args.end(), {"--fuse", "auto"});
  }
  std::istringstream lines(kvt(args, &r));
  for (std::string line; std::getline(lines, line);) {
    const json event = json::parse(line);
    if (event.contains("trained")) r.trained = event.at("trained").get<double>();
    if (event.at("event") == "nothing") r.validation = event.at("loss").get<double>();
    if (event.at("event") == "fusion") r.fused_validation = event.at("loss").get<double>();
    if (event.at("event") != "done") continue;
    r.validation = event.at("best_loss").get<double>();
    r.passes = event.at("passes").get<double>();
  }
  if (fs::exists(files.out)) r.stored = double(fs::file_size(files.out));
}

std::vector<std::string> CellRunner::prepare(const Cell& cell, Files& files) const {
  const ExperimentDomain& domain = e_.domains[cell.domain];
  const int64_t size = cell.size > 0 ? cell.size : e_.sizes.front();
  std::vector<std::string> written = {files.out, files.out + ".svg", files.config};
  if (e_.kind == Experiment::Kind::images) {
    files.train = fs::absolute(domain.text).string();
    files.test = fs::absolute(domain.test).string();
    return written;
  }
  if (e_.kind == Experiment::Kind::language) {
    const TextParts parts = parts_of(texts_[cell.domain], e_, size, cell.seed, domain.text);
    write_text(files.train, parts.train);
    write_text(files.validation, parts.validation);
    write_text(files.test, parts.test);
  } else {
    const LineParts parts = line_parts_of(read_lines(domain.text), e_, size, cell.seed, domain.text);
    write_text(files.train, joined(parts.train));
    write_text(files.validation, joined(parts.validation));
    std::vector<std::string> test = read_lines(domain.test);
    Rng rng(0);                                        // the same for every seed and method
    for (size_t i = test.size(); i > 1; --i) std::swap(test[i - 1], test[rng.below(i)]);
    if (e_.test > 0 && int64_t(test.size()) > e_.test) test.resize(size_t(e_.test));
    write_text(files.test, joined(test));
  }
  written.insert(written.end(), {files.train, files.validation, files.test});
  return written;
}

CellResult CellRunner::run(const Cell& cell) const {
  const std::string start = stem(cell);
  CellResult r;
  r.cell = cell;
  r.validation = r.fused_validation = r.fused = std::nan("");
  Files files{start + ".train.txt", start + ".valid.txt", start + ".test.txt", start + ".gguf", start + ".config.json"};
  const std::vector<std::string> written = prepare(cell, files);
  if (!cell.method) {
    r.test = e_.kind == Experiment::Kind::labelled ? std::nan("") : judge(e_.model, {}, files);
    if (!kept_.empty()) r.kept = loss(e_.model, {}, kept_);
  } else {
    const ExperimentMethod& m = e_.methods[*cell.method];
    const std::string& base = m.model.empty() ? e_.model : m.model;
    adapt(cell, files, r);
    const bool something = fs::exists(files.out);           // else it stays the base
    std::vector<std::string> adapter, alone;
    if (something && !m.whole_model) adapter = alone = {"--adapter", files.out};
    if (something && fuses(m)) alone.push_back("--no-fusion");      // a fusion that a method was trained with belongs to it
    const std::string& judged = m.whole_model && something ? files.out : base;
    r.test = judge(judged, alone, files);
    if (fuses(m)) r.fused = judge(base, adapter, files);
    if (!kept_.empty()) r.kept = loss(judged, alone, kept_);
  }
  for (const std::string& file : written) fs::remove(file);
  const auto number = [](double x) { return std::isnan(x) ? json(nullptr) : json(x); };
  write_text(start + ".json", json({{"validation", number(r.validation)}, {"test", number(r.test)}, {"fused_validation", number(r.fused_validation)}, {"fused", number(r.fused)},
                                    {"kept", number(r.kept)}, {"trained", r.trained}, {"stored", r.stored}, {"memory", r.memory}, {"seconds", r.seconds},
                                    {"passes", r.passes}}).dump() + "\n");
  return r;
}

std::optional<CellResult> CellRunner::stored(const Cell& cell) const {
  const std::string path = stem(cell) + ".json";
  if (!fs::exists(path)) return std::nullopt;
  const json o = json::parse(read_text(path), nullptr, false);
  CellResult r;
  r.cell = cell;
  const auto number = [&](const char* key) {
    const auto found = o.is_object() ? o.find(key) : o.end();
    require(o.is_object() && found != o.end() && (found->is_number() || found->is_null()), path, ": not the result of a run: no number \"", key, "\"; remove it to run the cell again");
    return found->is_null() ? std::nan("") : found->get<double>();
  };
  r.validation = number("validation"), r.test = number("test"), r.fused_validation = number("fused_validation"), r.fused = number("fused");
  r.trained = number("trained"), r.stored = number("stored"), r.memory = number("memory"), r.seconds = number("seconds"), r.passes = number("passes");
  if (!e_.kept.empty() || o.contains("kept")) r.kept = number("kept");
  return r;
}

}  // namespace kvt
