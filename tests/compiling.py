"""How tests compile: without optimisation, in a third of the time, as their programs run a few times each."""

FLAGS = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
