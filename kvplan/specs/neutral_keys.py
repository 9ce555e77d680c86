"""Config keys that never change the cache, and the words that make an unknown key suspicious.

An unread key is refused when its name contains a suspicious word, whatever its family; of an architecture without
a family, every unread key is refused. Keys whose value is null, false, zero or empty switch nothing on and pass.
"""

from __future__ import annotations

import re

NEUTRAL_KEYS = frozenset(
    """
    _attn_implementation_autoset _attn_implementation attn_implementation _flash_attn_2_enabled
    _commit_hash _name_or_path architectures auto_map model_type transformers_version
    torch_dtype dtype use_cache quantization_config compression_config quantization unsloth_version unsloth_fixed
    id2label label2id num_labels problem_type task_specific_params finetuning_task tokenizer_class prefix
    vocab_size bos_token_id eos_token_id pad_token_id sep_token_id unk_token_id mask_token_id decoder_start_token_id
    forced_bos_token_id forced_eos_token_id begin_suppress_tokens suppress_tokens bad_words_ids
    initializer_range initializer_factor init_std init_method rescale_prenorm_residual
    hidden_act hidden_activation activation_function mlp_hidden_act mlp_activation
    attention_dropout attn_dropout attn_pdrop resid_pdrop embd_pdrop dropout hidden_dropout residual_dropout
    embedding_dropout activation_dropout classifier_dropout attn_dropout_prob emb_dropout_prob emb_pdrop
    rms_norm_eps layer_norm_eps layer_norm_epsilon layernorm_epsilon norm_eps norm_epsilon
    rope_theta rope_scaling rope_parameters rope_interleaved rope_interleave rope_local_base_freq partial_rotary_factor
    rotary_pct rotary_emb_base rotary_dim rotary_emb_fraction rotary original_max_position_embeddings
    initial_context_length max_position_embeddings rope_ratio mrope_section use_mrope rope_3d
    tie_word_embeddings pretraining_tp gradient_checkpointing output_attentions output_hidden_states return_dict
    attn_logit_softcapping final_logit_softcapping logits_soft_cap query_pre_attn_scalar attention_multiplier
    embedding_multiplier residual_multiplier logits_scaling logit_scale scale_embedding
    max_length min_length num_beams num_beam_groups diversity_penalty do_sample early_stopping length_penalty
    no_repeat_ngram_size encoder_no_repeat_ngram_size num_return_sequences output_scores temperature top_k top_p
    typical_p repetition_penalty remove_invalid_values return_dict_in_generate exponential_decay_length_penalty
    torchscript tf_legacy_loss use_bfloat16 chunk_size_feed_forward pruned_heads is_decoder is_encoder_decoder
    tie_encoder_decoder add_cross_attention cross_attention_hidden_size cache_implementation
    router_aux_loss_coef router_z_loss_coef output_router_logits aux_loss_alpha seq_aux norm_topk_prob topk_method
    scoring_func routed_scaling_factor n_group topk_group router_jitter_noise
    """.split()
)

_SUSPICIOUS = re.compile(
    r"layer|window|attn|attention|head|kv|cache|state|conv|ssm|mamba|rank|latent|index|compress|shar|chunk|sink"
    r"|memory|recurrent|linear|block|hybrid|pattern|period|interval|local|global|sparse|prefix|meta_tok"
)


_HARMLESS = re.compile(r"bias|dropout|norm|flash|batch|freeze|temperature|softmax|loss|_dir$|_eps$")
"""Words that name a kernel, a vector or a training setting: whatever else such a key says, it stores no tokens."""


def looks_structural(key: str) -> bool:
    """Whether a key's name (without its path) speaks of something that could change the cache."""
    name = key.rpartition(".")[2].lower()
    return _SUSPICIOUS.search(name) is not None and _HARMLESS.search(name) is None
