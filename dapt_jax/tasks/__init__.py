"""What a data set is to a model: tasks, their split by data set, draws of images, set encoders."""

from dapt_jax.tasks.bank import Bank
from dapt_jax.tasks.splits import Split
from dapt_jax.tasks.task import Task

__all__ = ['Bank', 'Split', 'Task']
