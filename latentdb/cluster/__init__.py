"""Indexing on many machines: tasks under a plan, workers that write segments, one that commits.

tasks       what a worker is asked to do, and what it answers
worker      one process with the model: reads the images of a task and writes a segment
executor    plans the images of a run and gives tasks to workers
commits     which tasks are left, and which of the finished are in the store
ray_pool    the workers of a Ray cluster; a lost one is replaced, its task done again
"""
