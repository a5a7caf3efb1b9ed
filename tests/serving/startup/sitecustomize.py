"""Runs when Python starts with this folder in PYTHONPATH: lets `import torchvision` work beside a torch for CPUs.

The wheel's compiled part needs CUDA and is not loaded; two operators that it would declare are all that the import
asks for. vLLM looks at models in processes of its own, so every process needs this.
"""

import torch

OPERATORS = torch.library.Library("torchvision", "DEF")
for operator in ("nms", "qnms"):
    OPERATORS.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
