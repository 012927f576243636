"""Configurations of image-text models as checkpoints write them, short of keys that nothing follows from."""

from __future__ import annotations

from typing import Any

__all__ = ["CONFIGS"]

_SIGLIP = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "image_size": 896,
    "intermediate_size": 4304,
    "num_attention_heads": 16,
    "num_hidden_layers": 27,
    "patch_size": 14,
    "vision_use_head": False,
}
_IDEFICS = {key: _SIGLIP[key] for key in _SIGLIP if key not in ("model_type", "vision_use_head")}
_PIXTRAL = {
    "model_type": "pixtral",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "head_dim": 64,
}
_GLM = {"hidden_size": 64, "num_heads": 4, "depth": 3, "intermediate_size": 96}
_MROPE = {"rope_type": "default", "mrope_section": [8, 12, 12], "partial_rotary_factor": 0.5, "rope_theta": 10000.0}

CONFIGS: dict[str, dict[str, Any]] = {
    # gemma-3-4b-it
    "gemma3": {
        "model_type": "gemma3",
        "mm_tokens_per_image": 256,
        "text_config": {
            "model_type": "gemma3_text",
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "num_hidden_layers": 34,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "sliding_window": 1024,
        },
        "vision_config": _SIGLIP,
    },
    # paligemma2-3b-pt-448
    "paligemma": {
        "model_type": "paligemma",
        "projection_dim": 2304,
        "text_config": {
            "model_type": "gemma2",
            "hidden_size": 2304,
            "intermediate_size": 9216,
            "num_hidden_layers": 26,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "vocab_size": 257216,
        },
        "vision_config": {**_SIGLIP, "image_size": 448, "projection_dim": 2304},
    },
    # SmolVLM-Instruct
    "smolvlm": {
        "model_type": "smolvlm",
        "scale_factor": 3,
        "text_config": {
            "model_type": "llama",
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 24,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "head_dim": 64,
            "vocab_size": 49280,
        },
        "vision_config": {**_IDEFICS, "model_type": "smolvlm_vision", "image_size": 384},
    },
    # Idefics3-8B-Llama3
    "idefics3": {
        "model_type": "idefics3",
        "scale_factor": 2,
        "text_config": {
            "model_type": "llama",
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "vocab_size": 128259,
        },
        "vision_config": {**_IDEFICS, "model_type": "idefics3_vision", "image_size": 364},
    },
    # pixtral-12b
    "pixtral": {
        "model_type": "llava",
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "text_config": {
            "model_type": "mistral",
            "hidden_size": 5120,
            "intermediate_size": 14336,
            "num_hidden_layers": 40,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 131072,
            "sliding_window": None,
        },
        "vision_config": {**_PIXTRAL, "image_size": 1024, "patch_size": 16},
    },
    # Mistral-Small-3.1-24B
    "mistral3": {
        "model_type": "mistral3",
        "spatial_merge_size": 2,
        "vision_feature_layer": -1,
        "text_config": {
            "model_type": "mistral",
            "hidden_size": 5120,
            "intermediate_size": 32768,
            "num_hidden_layers": 40,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 131072,
            "sliding_window": None,
        },
        "vision_config": {**_PIXTRAL, "image_size": 1540, "patch_size": 14},
    },
    # Llama-4-Scout, its layers fewer
    "llama4": {
        "model_type": "llama4",
        "text_config": {
            "model_type": "llama4_text",
            "num_hidden_layers": 8,
            "hidden_size": 5120,
            "intermediate_size": 8192,
            "intermediate_size_mlp": 16384,
            "num_attention_heads": 40,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "num_local_experts": 16,
            "interleave_moe_layer_step": 1,
            "attention_chunk_size": 8192,
            "vocab_size": 202048,
        },
        "vision_config": {
            "model_type": "llama4_vision_model",
            "hidden_size": 1408,
            "image_size": 336,
            "patch_size": 14,
            "intermediate_size": 5632,
            "num_attention_heads": 16,
            "num_hidden_layers": 6,
            "pixel_shuffle_ratio": 0.5,
            "projector_input_dim": 4096,
            "projector_output_dim": 4096,
            "vision_output_dim": 4096,
        },
    },
    # towers whose masks and positions are computed, small enough to run
    "glm4v": {
        "model_type": "glm4v",
        "vision_config": _GLM,
        "text_config": {"model_type": "glm4v_text", "num_hidden_layers": 4, "rope_parameters": _MROPE},
    },
    "glm4v_moe": {
        "model_type": "glm4v_moe",
        "vision_config": {**_GLM, "out_hidden_size": 512},
        "text_config": {
            "model_type": "glm4v_moe_text",
            "hidden_size": 512,
            "intermediate_size": 1024,
            "moe_intermediate_size": 256,
            "n_routed_experts": 16,
            "vocab_size": 1024,
            "num_hidden_layers": 4,
            "head_dim": 128,
            "rope_parameters": _MROPE,
        },
    },
    # Aria at half its image size, with a small tower
    "aria": {
        "model_type": "aria",
        "text_config": {
            "model_type": "aria_text",
            "hidden_size": 2560,
            "intermediate_size": 1664,
            "num_hidden_layers": 28,
            "num_attention_heads": 20,
            "num_key_value_heads": 20,
            "moe_num_experts": 64,
            "moe_topk": 6,
            "moe_num_shared_experts": 2,
            "vocab_size": 100352,
        },
        "vision_config": {
            **_IDEFICS,
            "model_type": "idefics3_vision",
            "image_size": 490,
            "hidden_size": 96,
            "intermediate_size": 128,
            "num_attention_heads": 4,
            "num_hidden_layers": 3,
        },
    },
    # Ovis2-1B
    "ovis2": {
        "model_type": "ovis2",
        "text_config": {
            "model_type": "qwen2",
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
        },
    },
    # InternVL3.5-GPT-OSS-20B
    "internvl": {
        "model_type": "internvl",
        "text_config": {"model_type": "gpt_oss", "num_hidden_layers": 24, "num_local_experts": 32},
        "vision_config": {"model_type": "internvl_vision"},
    },
    "qwen3_5": {
        "model_type": "qwen3_5",
        "vision_config": {
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_heads": 4,
            "depth": 3,
            "out_hidden_size": 512,
        },
        "text_config": {
            "model_type": "qwen3_5_text",
            "hidden_size": 512,
            "intermediate_size": 1024,
            "num_hidden_layers": 2,
            "layer_types": ["linear_attention", "full_attention"],
            "vocab_size": 1024,
        },
    },
    "cohere2_vision": {"model_type": "cohere2_vision", "text_config": {"model_type": "cohere2"}},
    "aya_vision": {
        "model_type": "aya_vision",
        "vision_config": {**_SIGLIP, "image_size": 364},
        "text_config": {"model_type": "cohere2", "num_hidden_layers": 4},
    },
    # LLaVA-NeXT-Video-7B
    "llava_next_video": {
        "model_type": "llava_next_video",
        "text_config": {"model_type": "llama", "vocab_size": 32064},
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": 1024,
            "image_size": 336,
            "intermediate_size": 4096,
            "num_attention_heads": 16,
            "num_hidden_layers": 24,
            "patch_size": 14,
            "projection_dim": 768,
        },
    },
    # LFM2-VL-450M
    "lfm2_vl": {
        "model_type": "lfm2_vl",
        "downsample_factor": 2,
        "text_config": {
            "model_type": "lfm2",
            "hidden_size": 1024,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "num_hidden_layers": 2,
            "layer_types": ["conv", "full_attention"],
        },
        "vision_config": {
            "model_type": "siglip2_vision_model",
            "hidden_size": 96,
            "intermediate_size": 128,
            "num_attention_heads": 4,
            "num_hidden_layers": 3,
            "vision_use_head": False,
        },
    },
    # the thinker of Qwen2.5-Omni-7B, its language model small
    "qwen2_5_omni_thinker": {
        "model_type": "qwen2_5_omni_thinker",
        "audio_config": {"d_model": 64, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 64},
        "text_config": {
            "model_type": "qwen2_5_omni_text",
            "hidden_size": 512,
            "intermediate_size": 1024,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "num_hidden_layers": 2,
            "vocab_size": 1024,
        },
        "vision_config": {
            "model_type": "qwen2_5_omni_vision_encoder",
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_heads": 4,
            "depth": 3,
            "fullatt_block_indexes": [1],
            "out_hidden_size": 512,
        },
    },
    "kimi_k25": {
        "model_type": "kimi_k25",
        "projection_hidden_size": 64,
        "text_config": {
            "model_type": "deepseek_v3",
            "hidden_size": 512,
            "intermediate_size": 1024,
            "moe_intermediate_size": 64,
            "n_routed_experts": 16,
            "n_group": 4,
            "topk_group": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "num_hidden_layers": 4,
            "vocab_size": 1024,
        },
        "vision_config": {
            "model_type": "kimi_k25_vision",
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_attention_heads": 4,
            "num_hidden_layers": 3,
        },
    },
}
