"""The cycle-approximate engine: replays what an attention kernel reads, tile by tile, through units, cache and DRAM.

``target``        the profile's parameters as the replay needs them
``kernel_plan``   kernel mapping: work items, splits, granules
``kernel_choice`` which of the library's kernels runs, and in how many splits
``append``        what the scattered writes of new tokens add
``dram``          DRAM channels, banks and rows without ticking
``dram_pattern``  the share of DRAM's peak that an access pattern reaches
``timeline``      the event loop: slots, loads in flight, servers, compute
``engine``        operators in, times out: the same interface as the closed-form engine
"""
