import time
def test_x(attack, house):
    for out in (100_000, 900_000, 1_200_000, 3_000_000):
      for n in (0, 100_000, 1<<20, 8<<20):
        r=attack.run(f"print('y'*{out})", stdin="x"*n, limits={"output_bytes":4<<20, "wall_time": 3})
        print(out, n, r["outcome"], len(r["stdout"]), r["duration"])
    assert 0
