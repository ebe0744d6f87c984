"""The model: a frozen CLIP, a pool of low-rank experts, one router a task, and a selector of tasks."""
