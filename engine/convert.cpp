#include "engine/convert.h"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <map>

#include "ops/quant.h"

namespace kvt {

namespace {

namespace fs = std::filesystem;

enum class Change { none, transpose, llama_rows, plus_one, matrix /* all but the last axis joined, or [1, C] */, patches, split_qkv };

struct Rule {
  const char *from, *to;          // "#" stands for the block; what follows (".weight", ".bias") is kept. to = "" leaves the tensor out
  Change change = Change::none;
};
struct Map {
  const char* architecture;
  const char* prefix;             // may be absent
  std::vector<Rule> rules;
};

// The blocks of the Llama family
std::vector<Rule> llama_rules(Change q_and_k, Change norm) {
  return {{"embed_tokens", "token_embd"}, {"norm", "output_norm", norm}, {"lm_head", "output"},
          {"layers.#.self_attn.q_proj", "blk.#.attn_q", q_and_k}, {"layers.#.self_attn.k_proj", "blk.#.attn_k", q_and_k},
          {"layers.#.self_attn.v_proj", "blk.#.attn_v"}, {"layers.#.self_attn.qkv_proj", "blk.#.attn_qkv"}, {"layers.#.self_attn.o_proj", "blk.#.attn_output"},
          {"layers.#.self_attn.q_norm", "blk.#.attn_q_norm", norm}, {"layers.#.self_attn.k_norm", "blk.#.attn_k_norm", norm},
          {"layers.#.mlp.gate_proj", "blk.#.ffn_gate"}, {"layers.#.mlp.up_proj", "blk.#.ffn_up"}, {"layers.#.mlp.gate_up_proj", "blk.#.ffn_up"},
          {"layers.#.mlp.down_proj", "blk.#.ffn_down"}, {"layers.#.input_layernorm", "blk.#.attn_norm", norm},
          {"layers.#.post_attention_layernorm", norm == Change::plus_one ? "blk.#.post_attention_norm" : "blk.#.ffn_norm", norm},
          {"layers.#.pre_feedforward_layernorm", "blk.#.ffn_norm", norm}, {"layers.#.post_feedforward_layernorm", "blk.#.post_ffw_norm", norm},
          {"layers.#.self_attn.rotary_emb.inv_freq", ""}};
}

const std::vector<Map>& maps() {
  static const std::vector<Map> all = {
      {"bert", "bert.", {
          {"embeddings.word_embeddings", "token_embd"}, {"embeddings.position_embeddings", "position_embd"},
          {"embeddings.token_type_embeddings", "token_types"}, {"embeddings.LayerNorm", "token_embd_norm"},
          {"encoder.layer.#.attention.self.query", "blk.#.attn_q"}, {"encoder.layer.#.attention.self.key", "blk.#.attn_k"},
          {"encoder.layer.#.attention.self.value", "blk.#.attn_v"}, {"encoder.layer.#.attention.output.dense", "blk.#.attn_output"},
          {"encoder.layer.#.attention.output.LayerNorm", "blk.#.attn_output_norm"}, {"encoder.layer.#.intermediate.dense", "blk.#.ffn_up"},
          {"encoder.layer.#.output.dense", "blk.#.ffn_down"}, {"encoder.layer.#.output.LayerNorm", "blk.#.layer_output_norm"},
          {"embeddings.position_ids", ""}, {"pooler.", ""}, {"cls.", ""}}},
      {"gpt2", "transformer.", {
          {"wte", "token_embd"}, {"wpe", "position_embd"}, {"ln_f", "output_norm"}, {"lm_head", "output"},
          {"h.#.ln_1", "blk.#.attn_norm"}, {"h.#.attn.c_attn", "blk.#.attn_qkv", Change::transpose}, {"h.#.attn.c_proj", "blk.#.attn_output", Change::transpose},
          {"h.#.ln_2", "blk.#.ffn_norm"}, {"h.#.mlp.c_fc", "blk.#.ffn_up", Change::transpose}, {"h.#.mlp.c_proj", "blk.#.ffn_down", Change::transpose},
          {"h.#.attn.bias", ""}, {"h.#.attn.masked_bias", ""}}},
      {"llama", "model.", llama_rules(Change::llama_rows, Change::none)},
      {"qwen2", "model.", llama_rules(Change::none, Change::none)},
      {"qwen3", "model.", llama_rules(Change::none, Change::none)},
      {"phi3", "model.", llama_rules(Change::none, Change::none)},
      {"gemma3", "model.", llama_rules(Change::none, Change::plus_one)},
      {"vit", "vit.", {
          {"embeddings.cls_token", "cls_embd.weight", Change::matrix}, {"embeddings.position_embeddings", "position_embd.weight", Change::matrix},
          {"embeddings.patch_embeddings.projection", "patch_embd", Change::patches},
          {"encoder.layer.#.attention.attention.query", "blk.#.attn_q"}, {"encoder.layer.#.attention.attention.key", "blk.#.attn_k"},
          {"encoder.layer.#.attention.attention.value", "blk.#.attn_v"}, {"encoder.layer.#.attention.output.dense", "blk.#.attn_output"},
          {"encoder.layer.#.intermediate.dense", "blk.#.ffn_up"}, {"encoder.layer.#.output.dense", "blk.#.ffn_down"},
          {"encoder.layer.#.layernorm_before", "blk.#.attn_norm"}, {"encoder.layer.#.layernorm_after", "blk.#.ffn_norm"},
          {"layernorm", "output_norm"}, {"classifier", "output"}, {"pooler.", ""},
          // version 5 of transformers
          {"layers.#.attention.q_proj", "blk.#.attn_q"}, {"layers.#.attention.k_proj", "blk.#.attn_k"}, {"layers.#.attention.v_proj", "blk.#.attn_v"},
          {"layers.#.attention.o_proj", "blk.#.attn_output"}, {"layers.#.layernorm_before", "blk.#.attn_norm"}, {"layers.#.layernorm_after", "blk.#.ffn_norm"},
          {"layers.#.mlp.fc1", "blk.#.ffn_up"}, {"layers.#.mlp.fc2", "blk.#.ffn_down"},
          // vit-pytorch
          {"cls_token", "cls_embd.weight", Change::matrix}, {"pos_embedding", "position_embd.weight", Change::matrix},
          {"to_patch_embedding.1", "patch_embd", Change::patches}, {"mlp_head.0", "output_norm"}, {"mlp_head.1", "output"},
          {"transformer.layers.#.0.norm", "blk.#.attn_norm"}, {"transformer.layers.#.0.fn.to_qkv", "blk.#.attn_q", Change::split_qkv},
          {"transformer.layers.#.0.fn.to_out.0", "blk.#.attn_output"}, {"transformer.layers.#.1.norm", "blk.#.ffn_norm"},
          {"transformer.layers.#.1.fn.net.0", "blk.#.ffn_up"}, {"transformer.layers.#.1.fn.net.3", "blk.#.ffn_down"}}},
  };
  return all;
}

// Does `name` begin with `pattern`, up to its end or a dot? Then what the # stands for, and what follows.
struct Match { std::string block, rest; };
std::optional<Match> match(std::string_view name, std::string_view pattern) {
  Match m;
  const size_t hash = pattern.find('#');
  if (hash != std::string_view::npos) {
    if (!name.starts_with(pattern.substr(0, hash))) return {};
    name.remove_prefix(hash);
    while (!name.empty() && std::isdigit(static_cast<unsigned char>(name[0])) != 0) m.block += name[0], name.remove_prefix(1);
    if (m.block.empty()) return {};
    pattern.remove_prefix(hash + 1);
  }
  if (!name.starts_with(pattern)) return {};
  name.remove_prefix(pattern.size());
  if (!name.empty() && name[0] != '.' && !pattern.ends_with('.')) return {};
  m.rest = name;
  return m;
}

// y[perm(r)] = x[r] for whole rows of an F32 matrix, or for the numbers of a vector
template <class F>
Tensor rows_moved(const Tensor& x, F&& from) {
  const Tensor y(x.shape());
  const int64_t width = x.rank() > 1 ? x.dim(1) : 1;
  for (int64_t r = 0; r < x.dim(0); ++r) std::copy_n(x.data() + from(r) * width, width, y.data() + r * width);
  return y;
}

class Converter {
 public:
  Converter(const PublishedModel& model, const ConvertOptions& options, const std::string& architecture)
      : model_(model), options_(options), map_(*std::find_if(maps().begin(), maps().end(), [&](const Map& m) { return m.architecture == architecture; })) {}

  void run(Gguf& out) {
    for (const Safetensors& file : model_.files)
      for (const Safetensors::Entry& e : file.entries()) one(file, e, out);
    // The head is sometimes stored although it is the embedding.
    const auto head = found_.find("output.weight"), embedding = found_.find("token_embd.weight");
    if (head != found_.end() && embedding != found_.end() && std::ranges::equal(head->second.values(), embedding->second.values())) found_.erase(head);
    std::vector<std::pair<std::string, Tensor>> tensors(found_.begin(), found_.end());
    std::stable_sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) { return order(a.first) < order(b.first); });
    for (const auto& [name, x] : tensors) out.add(name, typed(name, x));
  }

 private:
  static int64_t order(const std::string& name) { return name.starts_with("blk.") ? std::stoll(name.substr(4)) : name.starts_with("output") ? int64_t(1) << 40 : -1; }

  void one(const Safetensors& file, const Safetensors::Entry& e, Gguf& out) {
    const std::string_view prefix = map_.prefix;
    const std::string_view name = std::string_view(e.name).starts_with(prefix) ? std::string_view(e.name).substr(prefix.size()) : e.name;
    for (const Rule& rule : map_.rules) {
      const std::optional<Match> m = match(name, rule.from);
      if (!m) continue;
      if (*rule.to == '\0') return;
      std::string to = rule.to;
      if (const size_t hash = to.find('#'); hash != std::string::npos) to.replace(hash, 1, m->block);
      const Tensor x = file.tensor(e.name);
      require(is_float(x.dtype()), file.path(), ": tensor '", e.name, "' is ", x.dtype(), ", expected F32, F16 or BF16");
      return put(to + m->rest, changed(unpack(x), rule.change, m->rest, e.name, out), rule.change);
    }
    fail(file.path(), ": tensor '", e.name, "' is not one that architecture '", map_.architecture, "' has");
  }

  void put(const std::string& name, const Tensor& x, Change change) {
    if (change == Change::split_qkv) {
      const int64_t rows = x.dim(0) / 3;
      for (int i = 0; i < 3; ++i) {
        std::string part = name;
        part.replace(part.find("attn_q"), 6, i == 0 ? "attn_q" : i == 1 ? "attn_k" : "attn_v");
        put(part, rows_moved(Tensor(x.rank() > 1 ? Shape{rows, x.dim(1)} : Shape{rows}, DType::F32, x.storage().part(size_t(i * x.bytes() / 3), size_t(x.bytes() / 3))),
                             [](int64_t r) { return r; }), Change::none);
      }
      return;
    }
    require(found_.emplace(name, x).second, model_.folder, ": two tensors would be called '", name, "'");
  }

  Tensor changed(const Tensor& x, Change change, const std::string& rest, const std::string& name, const Gguf& out) const {
    const auto expect = [&](bool ok) { require(ok, model_.folder, ": tensor '", name, "' has shape ", x.shape(), ", which does not fit the configuration"); };
    const auto key = [&](const char* k) { return out.integer(std::string(map_.architecture) + "." + k); };
    switch (change) {
      case Change::none: break;
      case Change::transpose: {
        if (rest != ".weight") break;
        expect(x.rank() == 2);
        const Tensor y({x.dim(1), x.dim(0)});
        for (int64_t i = 0; i < x.dim(0); ++i)
          for (int64_t j = 0; j < x.dim(1); ++j) y.data()[j * x.dim(0) + i] = x.data()[i * x.dim(1) + j];
        return y;
      }
      case Change::llama_rows: {
        const int64_t D = key("attention.key_length");
        expect(x.dim(0) % D == 0);
        return rows_moved(x, [&](int64_t r) { return r / D * D + r % D % 2 * (D / 2) + r % D / 2; });
      }
      case Change::plus_one: {
        const Tensor y = x.clone();
        for (float& w : y.values()) w += 1;
        return y;
      }
      case Change::matrix: return x.view({x.size() / x.dim(-1), x.dim(-1)});
      case Change::patches: {
        if (rest != ".weight") break;
        const Tensor w = x.view({x.dim(0), x.size() / x.dim(0)});
        if (x.rank() == 4) return w;
        // vit-pytorch flattens a patch as (row, column, channel); a convolution's order is (channel, row, column).
        const int64_t channels = key("image_channels"), area = key("patch_size") * key("patch_size");
        expect(w.dim(1) == channels * area);
        const Tensor y(w.shape());
        for (int64_t r = 0; r < w.dim(0); ++r)
          for (int64_t i = 0; i < area; ++i)
            for (int64_t c = 0; c < channels; ++c) y.data()[r * w.dim(1) + c * area + i] = w.data()[r * w.dim(1) + i * channels + c];
        return y;
      }
      case Change::split_qkv: expect(x.dim(0) % 3 == 0); break;
    }
    return x;
  }

  Tensor typed(const std::string& name, const Tensor& x) const {
    const bool keep = x.rank() < 2 || name == "position_embd.weight" || name == "token_types.weight" || name == "patch_embd.weight" || name == "cls_embd.weight";
    if (keep || options_.type == DType::F32) return x;
    return pack(x, x.dim(-1) % info(options_.type).block == 0 ? options_.type : DType::F16);
  }

  const PublishedModel& model_;
  const ConvertOptions& options_;
  const Map& map_;
  std::map<std::string, Tensor> found_;
};

}  // namespace

PublishedModel PublishedModel::open(const std::string& input, const std::string& config) {
  PublishedModel m;
  std::vector<std::string> paths;
  if (fs::is_directory(input)) {
    m.folder = input;
    for (const auto& file : fs::directory_iterator(input))
      if (file.path().extension() == ".safetensors") paths.push_back(file.path().string());
    std::sort(paths.begin(), paths.end());
    require(!paths.empty(), "'", input, "' has no .safetensors file");
  } else {
    m.folder = fs::path(input).parent_path().string();
    paths.push_back(input);
  }
  for (const std::string& path : paths) m.files.push_back(Safetensors::open(path));
  m.config_source = config.empty() ? (fs::path(m.folder) / "config.json").string() : config;
  if (!config.empty() || fs::exists(m.config_source)) {
    m.config = Json::read(m.config_source);
  } else if (!m.files[0].metadata().empty()) {
    Json::Object members;
    for (const auto& [name, value] : m.files[0].metadata()) members.emplace_back(name, value);
    m.config = members;
    m.config_source = paths[0] + ": __metadata__";
  }
  return m;
}

bool PublishedModel::has(const std::string& tensor) const {
  return std::any_of(files.begin(), files.end(), [&](const Safetensors& f) { return f.has(tensor); });
}

const Safetensors& PublishedModel::file_with(const std::string& tensor) const {
  for (const Safetensors& f : files)
    if (f.has(tensor)) return f;
  fail("'", folder, "': no file has a tensor '", tensor, "'");
}

Gguf convert(const PublishedModel& model, const ConvertOptions& options) {
  const std::string architecture = options.architecture.empty() ? published_architecture(model) : options.architecture;
  std::string known;
  for (const Map& m : maps()) known += known.empty() ? m.architecture : std::string(", ") + m.architecture;
  require(std::any_of(maps().begin(), maps().end(), [&](const Map& m) { return m.architecture == architecture; }), model.config_source,
          ": architecture '", architecture, "' is not converted; known: ", known);
  require(options.type == DType::F32 || weight_format(options.type).pack, "convert: ", options.type, " is a type this engine reads but does not write");
  Gguf out;
  out.set("general.architecture", architecture);
  const std::string name = fs::path(model.folder).filename().string();
  if (!name.empty()) out.set("general.name", name);
  convert_config(out, model, architecture);
  convert_tokenizer(out, model, architecture);
  Converter(model, options, architecture).run(out);
  return out;
}

}  // namespace kvt
