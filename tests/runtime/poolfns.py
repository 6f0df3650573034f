import numpy as np
def arr(n): return np.full(n, 7, np.uint8)
def gen(n):
    for i in range(n): yield i, np.full(100000, i%250, np.uint8)
