"""An open-vocabulary speech language model of public parts: Whisper base, a projector, and SmolLM2-135M-Instruct.

``python -m fastadasp.testbed FOLDER`` writes it as a model folder.
"""

from fastadasp.testbed.build import build as build
from fastadasp.testbed.shape import make_projector as make_projector
