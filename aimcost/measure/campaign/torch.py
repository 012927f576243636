"""What a campaign measures with torch: kernels, prefills, the tower, decoding, memory.

Every function is told its sizes and asks ``tick`` between measurements, which raises when time is up.
"""
