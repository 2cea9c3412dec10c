"""How tests compile: in one piece, without optimisation, in a third of the time, as programs run a few times each."""

FLAGS = (
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)
