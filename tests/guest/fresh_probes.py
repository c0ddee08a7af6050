"""Programs that print what a program can see of its interpreter: a fork and a fresh start must print the same.

Each probe is a whole ``main.py``. Those of PROBES use the standard library alone, those of PACKAGES the image's.
ACCEPTED holds what is known to differ, with the reason. `zygote_main` is the test's zygote: it is named by
CODECELL_ZYGOTE and runs inside the interpreter under test.
"""

# ruff: noqa: E501  (programs as they are, one to a line or two)
from __future__ import annotations

import sys

PROBES: dict[str, str] = {
    "modules": "import sys\nprint(sorted(sys.modules))",
    "modules_after_json": "import json, sys\nprint(sorted(sys.modules))",
    "modules_after_logging": "import logging, sys\nprint(sorted(sys.modules))",
    "modules_after_threading": "import threading, sys\nprint(sorted(sys.modules))",
    "modules_after_asyncio": "import asyncio, sys\nprint(sorted(sys.modules))",
    "main_module": "print({k: str(v) for k, v in vars().items()})\nimport sys\nprint(sys.modules['__main__'].__dict__ is globals())",
    "sys_state": (
        "import sys\n"
        "print(sys.argv, sys.orig_argv, sys.path, sys.flags, sys.warnoptions, sys._xoptions)\n"
        "print(sys.executable, sys.prefix, sys.base_prefix, sys._base_executable, sys.dont_write_bytecode)\n"
        "print(sys.meta_path, sys.path_hooks, sorted(sys.path_importer_cache))\n"
        "print(sys.getrecursionlimit(), sys.getswitchinterval(), sys.gettrace(), sys.getprofile())\n"
        "print(sys.excepthook, sys.displayhook, sys.unraisablehook, sys.breakpointhook)\n"
        "print(sys.excepthook is sys.__excepthook__, hasattr(sys, 'last_value'), sys.is_finalizing())\n"
        "print(sorted(vars(sys)))"
    ),
    "builtins": "import builtins\nprint(dir(builtins), __import__, exit, copyright)",
    "frames": (
        "import sys\nprint(sys._getframe().f_back)\nimport inspect, traceback\n"
        "print(len(inspect.stack()))\ntraceback.print_stack()"
    ),
    "recursion_depth": (
        "def f(n):\n    try:\n        return f(n + 1)\n    except RecursionError:\n        return n\nprint(f(0))"
    ),
    "streams": (
        "import sys, io\n"
        "for s in (sys.stdin, sys.stdout, sys.stderr, sys.__stdin__, sys.__stdout__, sys.__stderr__):\n"
        "    print(repr(s), s.encoding, s.errors, s.newlines, s.line_buffering, s.write_through, s.mode, s.name)\n"
        "    print(repr(s.buffer), repr(s.buffer.raw), s.fileno(), s.isatty(), s.seekable(), s.buffer.raw.closefd)\n"
        "print(sys.stdout is sys.__stdout__)"
    ),
    "stdin": "import sys\nprint(repr(input()), sys.stdin.buffer.read(2), sys.stdin.read())",
    "stream_order": "import sys, os\nprint('a')\nos.write(1, b'b\\n')\nprint('c', file=sys.stderr)\nsys.stdout.flush()",
    "surrogates": "print('caf\\u00e9 \\udcff')",
    "undecodable_stderr": "import sys\nprint('\\udcff \\U0001f600', file=sys.stderr)",
    "environment": (
        "import os, subprocess\nprint(os.environ, os.getenv('HOME'), os.environb)\nimport posix\n"
        "print(posix.environ == os.environb._data)\n"
        "print(sorted(subprocess.check_output(['/usr/bin/env']).splitlines()))"
    ),
    "proc": (
        "for name in ('cmdline', 'comm', 'environ'):\n    print(repr(open(f'/proc/self/{name}').read()))\n"
        "import os\nprint(os.readlink('/proc/self/exe'), sorted(os.listdir('/proc/self/fd')))\n"
        "print(len(os.listdir('/proc/self/task')))"
    ),
    "process": (
        "import os\nprint(os.getsid(0) == os.getpid(), os.getpgrp() == os.getpid(), os.getcwd(), os.getpriority(0, 0))\n"
        "mask = os.umask(0)\nprint(oct(mask))\n"
        "import resource\nprint(resource.getrlimit(resource.RLIMIT_NOFILE), resource.getrlimit(resource.RLIMIT_CORE))"
    ),
    "cpu_limit": "import resource\nprint(resource.getrlimit(resource.RLIMIT_CPU))",
    "signals": (
        "import signal\nfor s in sorted(signal.valid_signals()):\n    print(s, signal.getsignal(s))\n"
        "print(signal.pthread_sigmask(signal.SIG_BLOCK, []), signal.set_wakeup_fd(-1), signal.getitimer(0))"
    ),
    "interrupt": "import os, signal\nprint('before', flush=True)\nos.kill(os.getpid(), signal.SIGINT)\nprint('never')",
    "terminated": "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)",
    "sigpipe_child": (
        "import subprocess, sys\n"
        "print(subprocess.run(['/bin/sh', '-c', 'trap; kill -PIPE $$; echo survived']).returncode)"
    ),
    "threads": (
        "import threading\nprint(threading.enumerate(), threading.main_thread() is threading.current_thread())\n"
        "print(threading.get_native_id() == threading.main_thread().native_id == __import__('os').getpid())\n"
        "t = threading.Thread(target=lambda: print(threading.current_thread().name))\nt.start()\nt.join()"
    ),
    "thread_outlives_main": (
        "import threading, time\nthreading.Thread(target=lambda: (time.sleep(.2), print('late'))).start()\nprint('end')"
    ),
    "daemon_thread": (
        "import threading, time\nthreading.Thread(target=lambda: time.sleep(60), daemon=True).start()\nprint('end')"
    ),
    "imports_in_threads": (
        "import threading, sys\nseen = []\n"
        "def load(n):\n    m = __import__(n)\n    seen.append(m is sys.modules[n])\n"
        "names = ['json', 'logging', 'decimal', 'random', 'inspect', 'json', 'logging', 'decimal'] * 4\n"
        "ts = [threading.Thread(target=load, args=(n,)) for n in names]\n"
        "[t.start() for t in ts]\n[t.join() for t in ts]\nprint(seen)"
    ),
    "atexit": (
        "import atexit\nprint(atexit._ncallbacks() <= 1)\natexit.register(print, 'first')\natexit.register(print, 'second')\n"
        "import weakref\nclass A: pass\na = A()\nweakref.finalize(a, print, 'finalized')"
    ),
    "atexit_raises": "import atexit\n@atexit.register\ndef f():\n    1 / 0\nprint('end')",
    "finalizers": (
        "import sys\nclass A:\n    def __init__(self, n): self.n = n\n    def __del__(self): print('del', self.n)\n"
        "a = A('global')\nb = A('cycle'); b.b = b\ndef f(): return a\nsys.held = A('held by sys')\nprint('end')"
    ),
    "finalizer_imports": (
        "class A:\n    def __del__(self):\n        try:\n            import json\n            print('got', json)\n"
        "        except ImportError as e:\n            print(type(e))\na = A(); a.a = a\ndel a\nprint('end')"
    ),
    "finalizer_raises": "class A:\n    def __del__(self): 1 / 0\na = A()\nprint('end')",
    "warnings": (
        "import sys\nprint(sys.modules.get('warnings'))\nimport warnings\nfor f in warnings.filters: print(f)\n"
        "warnings.warn('one')\nwarnings.warn('two', DeprecationWarning)\ndef f(): warnings.warn('three', stacklevel=2)\n"
        "f()\nwarnings.warn('four', stacklevel=9)\nprint(sorted(k for k in globals() if 'registry' in k), warnings.onceregistry)"
    ),
    "logging": (
        "import logging, time\nprint(logging.root.handlers, logging.root.level, sorted(logging.root.manager.loggerDict))\n"
        "logging.warning('w')\nlogging.getLogger('x').info('i')\nlogging.basicConfig(level=10, force=True)\n"
        "logging.getLogger('matplotlib').debug('d')\nr = logging.makeLogRecord({})\n"
        "print(0 <= logging.LogRecord('a', 1, 'p', 1, 'm', (), None).relativeCreated < 5000)\n"
        "logging.getLogger('y').findCaller()\nprint(sorted(logging.root.manager.loggerDict))"
    ),
    "gc": "import gc\nprint(gc.isenabled(), gc.get_threshold(), gc.get_debug(), gc.callbacks, gc.garbage, gc.collect() < 500)",
    "locale": (
        "import locale, sys\nprint(locale.setlocale(locale.LC_ALL), locale.getlocale(), locale.getpreferredencoding())\n"
        "print(sys.getfilesystemencoding(), sys.getfilesystemencodeerrors(), sys.getdefaultencoding())"
    ),
    "time": "import time\nprint(time.timezone, time.tzname, time.process_time() < 1, time.localtime(0))",
    "decimal": "import decimal\nprint(decimal.getcontext(), decimal.DefaultContext)",
    "asyncio": (
        "import asyncio\nprint(asyncio.get_event_loop_policy())\n"
        "async def f():\n    await asyncio.sleep(0)\n    p = await asyncio.create_subprocess_exec('/bin/echo', 'x')\n"
        "    return await p.wait()\nprint(asyncio.run(f()))"
    ),
    "faulthandler_tracemalloc": "import faulthandler, tracemalloc\nprint(faulthandler.is_enabled(), tracemalloc.is_tracing())",
    "caches": (
        "import tempfile, platform, linecache, re, uuid\nprint(tempfile.tempdir, linecache.cache, uuid._node)\n"
        "print(platform.node() == __import__('os').uname().nodename, tempfile.gettempdir())"
    ),
    "find_spec": (
        "import importlib.util, sys\nfor n in ('json', 'logging', 'random', 'nothing_here', 'math', 'os.path'):\n"
        "    print(importlib.util.find_spec(n), n in sys.modules)"
    ),
    "specs": (
        "import json.decoder, logging.handlers, random, decimal\n"
        "for m in (json, json.decoder, logging, logging.handlers, random, decimal):\n"
        "    print(m, m.__spec__, m.__loader__, m.__file__, m.__package__, m.__cached__)"
    ),
    "submodule_attributes": (
        "import json, logging, concurrent, importlib, xml, email, urllib\n"
        "for m in (json, logging, concurrent, importlib, xml, email, urllib):\n    print(m.__name__, sorted(vars(m)))"
    ),
    "submodule_import": "import logging.handlers\nprint(logging.handlers.__name__)\nfrom json import decoder\nprint(decoder.__name__)",
    "reload": (
        "import json, importlib, sys\na = json.JSONDecoder\nimportlib.reload(json)\nprint(json.JSONDecoder is a, json.__spec__)\n"
        "del sys.modules['json']\nb = json\nimport json\nprint(json is b, json.loads('[1]'))"
    ),
    "blocked_module": "import sys\nsys.modules['json'] = None\ntry:\n    import json\nexcept ImportError as e:\n    print(repr(e))",
    "mocked_module": (
        "import sys, types\nsys.modules['json'] = types.SimpleNamespace(loads=lambda s: 'mock')\nimport json\nprint(json.loads('1'))\n"
        "try:\n    import json.decoder\nexcept Exception as e:\n    print(type(e).__name__)"
    ),
    "own_finder": (
        "import sys\nclass F:\n    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('json', 'random', 'nothing'): print('asked for', name)\nsys.meta_path.insert(0, F())\nimport json\nimport random\n"
        "try:\n    import nothing\nexcept ImportError as e: print(e)"
    ),
    "own_directory": (
        "import sys, os\nos.makedirs('lib', exist_ok=True)\nopen('lib/random.py', 'w').write('value = 42')\n"
        "sys.path.insert(0, 'lib')\nimport random\nprint(random.value, random.__file__)"
    ),
    "pkgutil": "import pkgutil\nprint(len({m.name for m in pkgutil.iter_modules()}) > 100, pkgutil.get_data('json', '__init__.py')[:3])",
    "pickle": (
        "import pickle\nclass A:\n    def __init__(self): self.x = 1\n"
        "print(pickle.dumps(A()), pickle.loads(pickle.dumps(A())).x, A.__module__, A)\n"
        "import decimal, collections\nprint(pickle.loads(pickle.dumps((decimal.Decimal(1), collections.Counter('aa')))))"
    ),
    "dataclass": (
        "from __future__ import annotations\nfrom dataclasses import dataclass, fields\nfrom typing import get_type_hints, ClassVar\n"
        "@dataclass\nclass P:\n    x: int\n    y: ClassVar[int] = 1\nprint(P(1), fields(P)[0].type, get_type_hints(P))"
    ),
    "inspect": "import inspect\ndef f():\n    return 1\nprint(inspect.getsource(f), inspect.getfile(f), inspect.getmodule(f))",
    "multiprocessing_fork": (
        "import multiprocessing as m\ndef f(q): q.put(m.current_process().name)\n"
        "if __name__ == '__main__':\n    c = m.get_context('fork')\n    q = c.Queue()\n    p = c.Process(target=f, args=(q,))\n"
        "    p.start()\n    print(q.get())\n    p.join()\n    print(p.exitcode)"
    ),
    "multiprocessing_spawn": (
        "import multiprocessing as m, sys\ndef f(q): q.put((__name__, sys.argv, sys.path[0]))\n"
        "if __name__ == '__main__':\n    c = m.get_context('spawn')\n    q = c.Queue()\n    p = c.Process(target=f, args=(q,))\n"
        "    p.start()\n    print(q.get())\n    p.join()\n    print(p.exitcode)"
    ),
    "multiprocessing_forkserver": (
        "import multiprocessing as m\ndef f(x): return x * x\n"
        "if __name__ == '__main__':\n    with m.get_context('forkserver').Pool(2) as p: print(p.map(f, range(5)))"
    ),
    "process_pool": (
        "from concurrent.futures import ProcessPoolExecutor\ndef f(x): return x + 1\n"
        "if __name__ == '__main__':\n    with ProcessPoolExecutor(2) as p: print(list(p.map(f, range(4))))"
    ),
    "subprocess_python": (
        "import subprocess, sys\n"
        "print(subprocess.run([sys.executable, '-c', 'import sys; print(sys.path, sys.flags, len(sys.modules))'], "
        "capture_output=True, text=True))"
    ),
    "os_fork": "import os, sys\npid = os.fork()\nif pid == 0:\n    print('child')\n    sys.exit(7)\nprint(os.waitpid(pid, 0)[1])",
    "exec": "import os, sys\nos.execv(sys.executable, ['python3', '-c', 'import sys; print(sys.orig_argv)'])",
    "exit_none": "import sys\nprint('x')\nsys.exit()",
    "exit_code": "import sys\nsys.exit(3)",
    "exit_256": "raise SystemExit(256)",
    "exit_negative": "raise SystemExit(-1)",
    "exit_huge": "raise SystemExit(1 << 70)",
    "exit_true": "raise SystemExit(True)",
    "exit_text": "import sys\nprint('out')\nsys.exit('bad: caf\\u00e9')",
    "exit_object": "raise SystemExit((1, 2))",
    "exit_subclass": "class E(SystemExit):\n    @property\n    def code(self): return 5\nraise E(1)",
    "exit_chained": "import sys\ntry:\n    1 / 0\nexcept ZeroDivisionError:\n    sys.exit(4)",
    "exit_deletes_names": "import sys\ndel __file__, __cached__\nsys.exit(6)",
    "exit_in_thread": "import threading, sys\nt = threading.Thread(target=sys.exit, args=(9,))\nt.start()\nt.join()\nprint('main')",
    "exit_code_read": "try:\n    raise SystemExit(5)\nexcept SystemExit as e:\n    print(e.code, SystemExit.code)\n    e.code = 8\n    raise",
    "exit_in_atexit": "import atexit, sys\natexit.register(sys.exit, 3)\nprint('end')",
    "exit_builtin": "quit(2)",
    "os_exit": "import os\nprint('lost')\nos._exit(11)",
    "abort": "import os\nos.abort()",
    "uncaught": "def f(x):\n    return 1 / x\ndef g():\n    f(0)\ng()",
    "uncaught_chained": "try:\n    {}['k']\nexcept KeyError as e:\n    raise ValueError('v') from e",
    "uncaught_context": "try:\n    {}['k']\nexcept KeyError:\n    raise ValueError('v')",
    "uncaught_group": "raise ExceptionGroup('g', [ValueError(1), ExceptionGroup('h', [TypeError(2)])])",
    "uncaught_note": "e = ValueError('v')\ne.add_note('note')\nraise e",
    "uncaught_recursion": "def f(): f()\nf()",
    "uncaught_memory": "x = bytearray(1 << 62)",
    "uncaught_finally": "try:\n    1 / 0\nfinally:\n    print('finally')",
    "uncaught_with": "import contextlib\nwith contextlib.suppress(KeyError):\n    1 / 0",
    "uncaught_reraise": "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise",
    "uncaught_in_import": "open('broken.py', 'w').write('import json\\n1 / 0\\n')\nimport broken",
    "uncaught_bad_import": "import json\nimport no_such_module_here",
    "uncaught_bad_from": "from json import nothing",
    "uncaught_syntax_import": "open('worse.py', 'w').write('x = (\\n')\nimport worse",
    "uncaught_from_stdlib": "import json\njson.loads('{')",
    "uncaught_stored": (
        "import sys\ntry:\n    1 / 0\nexcept ZeroDivisionError:\n"
        "    sys.last_type, sys.last_value, sys.last_traceback = sys.exc_info()\nprint('fine')"
    ),
    "uncaught_keyboard": "raise KeyboardInterrupt",
    "syntax_error": "print('a'\nx = 1\n",
    "indentation_error": "if True:\nprint(1)",
    "null_byte": "print(1)\0",
    "bad_encoding": "# coding: nonsense\nprint(1)",
    "latin1": "# coding: latin-1\nprint('é')",
    "excepthook": "import sys\nsys.excepthook = lambda *a: print('hook', a[:2])\n1 / 0",
    "excepthook_raises": "import sys\ndef h(*a): raise ValueError('in hook')\nsys.excepthook = h\n1 / 0",
    "traceback_module": "import traceback\ntry:\n    1 / 0\nexcept ZeroDivisionError:\n    traceback.print_exc()",
    "stdout_closed": "import sys\nsys.stdout.close()",
    "stdout_fd_closed": "import os\nprint('x')\nos.close(1)",
    "stdout_replaced": "import sys, io\nsys.stdout = io.StringIO()\nprint('x')",
    "stdout_wrapped": "import sys, io\nsys.stdout = io.TextIOWrapper(sys.stdout.buffer, 'utf-16')\nprint('x')",
    "c_stdio": "import ctypes\nctypes.CDLL(None).printf(b'from C')\nprint('from Python')",
    "unflushed_file": "f = open('out.txt', 'w')\nf.write('kept')\nimport atexit",
    "ctypes": "import ctypes\nprint(ctypes.CDLL(None).getpid() == __import__('os').getpid(), ctypes._pointer_type_cache.keys())",
    "codecs": "import codecs\nprint(codecs.lookup('idna').name, 'é'.encode('cp1252'), 'x'.encode('utf-16'))",
    "abc_registry": "import collections.abc\nprint(isinstance([], collections.abc.Sequence), issubclass(dict, collections.abc.Mapping))",
    "doctest": "import doctest\ndef f():\n    '''\n    >>> f()\n    1\n    '''\n    return 1\nprint(doctest.testmod())",
    "unittest": (
        "import unittest\nclass T(unittest.TestCase):\n    def test(self): self.assertEqual(1, 1)\n"
        "unittest.main(argv=['x'], verbosity=0)"
    ),
    "argparse": "import argparse\np = argparse.ArgumentParser()\np.add_argument('--n', required=True)\np.parse_args([])",
    "runpy": "import runpy\nopen('other.py', 'w').write('print(__name__)')\nrunpy.run_path('other.py', run_name='__main__')",
    "zipapp_path": (
        "import sys, zipfile\nwith zipfile.ZipFile('m.zip', 'w') as z: z.writestr('random.py', 'value = 7')\n"
        "sys.path.insert(0, 'm.zip')\nimport random\nprint(random.value)"
    ),
    "sqlite": "import sqlite3\nprint(sqlite3.connect(':memory:').execute('select 1').fetchall())",
    "ssl": "import ssl, secrets, hashlib\nprint(hashlib.sha256(b'x').hexdigest(), len(secrets.token_bytes(8)))",
    "typing_modules": "import typing, sys\nprint([n for n in sorted(sys.modules) if n.startswith('typing')])",
    "contextvars": "import contextvars\nprint(len(contextvars.copy_context()))",
    "frozen_objects": "import gc\nprint(gc.get_freeze_count())",
    "subclasses": "print(len(object.__subclasses__()), len(Exception.__subclasses__()))",
    "exit_function_count": "import atexit\nprint(atexit._ncallbacks())",
    "guards": "import sys\nprint(vars(sys.stdin), vars(sys.__interactivehook__), SystemExit.__dict__['code'])",
    "fork_hooks": "import sys\nprint(sys.modules['_frozen_importlib']._find_and_load_unlocked.__closure__)",
    "hash_seed": "print(hash('text'))",
    "copyreg": "import copyreg\nprint(sorted(map(str, copyreg.dispatch_table)))",
}

PACKAGES: dict[str, str] = {
    "modules_numpy": "import numpy, sys\nprint(sorted(sys.modules))",
    "modules_pandas": "import pandas, sys\nprint(sorted(sys.modules))",
    "modules_matplotlib": "import matplotlib, sys\nprint(sorted(sys.modules))",
    "attributes_matplotlib": "import matplotlib\nprint(sorted(vars(matplotlib)))",
    "attributes_numpy": "import numpy\nprint(sorted(vars(numpy)))\nimport numpy.linalg\nprint(sorted(vars(numpy.linalg)))",
    "attributes_pandas": "import pandas\nprint(sorted(vars(pandas)), sorted(vars(pandas.core)), sorted(vars(pandas.io)))",
    "filters": "import warnings, pandas, matplotlib.pyplot\nfor f in warnings.filters: print(f)",
    "loggers": "import logging, matplotlib.pyplot\nprint(sorted(logging.root.manager.loggerDict))",
    "logger_first": (
        "import logging, sys\nlogging.basicConfig(stream=sys.stdout, format='%(name)s %(message)s')\n"
        "a = logging.getLogger('matplotlib')\na.setLevel(logging.ERROR)\nimport matplotlib\n"
        "print(matplotlib._log.getEffectiveLevel(), logging.getLogger('matplotlib') is a)\n"
        "matplotlib._log.warning('hidden')\na.setLevel(10)\nmatplotlib._log.warning('shown')\n"
        "print(logging.getLogger('matplotlib.font_manager').getEffectiveLevel())"
    ),
    "exit_functions": "import atexit, pandas, matplotlib.pyplot\nprint(atexit._ncallbacks() > 0)",
    "series": "import pandas as pd\nprint(pd.Series([1, 2]).sum(), pd.DataFrame({'a': [1, 2], 'b': list('xy')}).describe())",
    "csv": "import pandas as pd, io\nprint(pd.read_csv(io.StringIO('a,b\\n1,2\\n3,4')).groupby('a').sum())",
    "pickle_frame": "import pandas as pd, pickle\nprint(pickle.loads(pickle.dumps(pd.DataFrame({'a': [1]}))))",
    "plot": (
        "import matplotlib\nprint(matplotlib.rcParams._get('backend') if hasattr(matplotlib.rcParams, '_get') else '')\n"
        "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.savefig('p.png')\nprint(open('p.png', 'rb').read(4), plt.get_backend())"
    ),
    "linalg": "import numpy as np\nprint(np.linalg.solve(np.eye(300) * 2, np.ones(300)).sum(), np.dot(np.ones(500), np.ones(500)))",
    "threads": "import numpy, os\nprint(len(os.listdir('/proc/self/task')))",
    "seeded": "import numpy as np, random\nnp.random.seed(1)\nrandom.seed(1)\nprint(np.random.rand(3), random.random())",
    "submodules": "import matplotlib.colors, numpy.fft, pandas.io.json\nprint(matplotlib.colors.to_hex('red'), numpy.fft.fft([1, 2]))",
    "lazy_attribute": "import numpy as np\nprint(np.testing.__name__, np.rec.__name__)\nimport matplotlib\nprint(hasattr(matplotlib, 'pyplot'))",
    "reimport": (
        "import sys, warnings\nimport matplotlib.colors as a\ndel sys.modules['matplotlib.colors']\nimport matplotlib.colors as b\nprint(a is b)"
    ),
    "blocked": "import sys\nsys.modules['numpy'] = None\ntry:\n    import pandas\nexcept ImportError as e:\n    print(str(e)[:60])",
    "traceback": "import pandas as pd\npd.DataFrame({'a': [1]})['b']",
    "in_threads": (
        "import threading, sys\nnames = ['pandas', 'numpy', 'matplotlib.pyplot', 'pandas.io.json', 'numpy.random', 'json'] * 4\n"
        "errors = []\n"
        "def load(n):\n    try:\n        __import__(n)\n        assert sys.modules[n]\n    except BaseException as e: errors.append(e)\n"
        "ts = [threading.Thread(target=load, args=(n,)) for n in names]\n[t.start() for t in ts]\n[t.join() for t in ts]\n"
        "import pandas, numpy\nprint(errors, pandas.DataFrame({'a': [1]}).to_numpy(), numpy.random.rand(1).shape)"
    ),
    "pool": (
        "from multiprocessing import get_context\nimport numpy as np\ndef f(x): return float(np.ones(x).sum())\n"
        "if __name__ == '__main__':\n    with get_context('fork').Pool(2) as p: print(p.map(f, range(4)))"
    ),
    "mplbackend": "import os\nos.environ['MPLBACKEND'] = 'svg'\nimport matplotlib\nprint(matplotlib.get_backend())",
    "find_spec": "import importlib.util, sys\nprint(importlib.util.find_spec('pandas'), 'pandas' in sys.modules)",
    "version": "import importlib.metadata as m\nprint(m.version('pandas'), m.version('numpy'))",
}

# Probe -> why the two may differ.
ACCEPTED: dict[str, str] = {
    "frozen_objects": "preloaded objects are frozen, so that a collection need not copy their pages",
    "subclasses": "classes of hidden modules are still subclasses of object",
    "exit_function_count": "one exit function, the last to run, is ours",
    "guards": "three objects carry what ends a fork without tearing the zygote down",
    "fork_hooks": "the import system's own loading function is wrapped",
    "hash_seed": "forks of one zygote share its hash seed; it is renewed after some thousands of forks",
    "in_threads": "importing one package from many threads deadlocks or fails in a fresh CPython; here it works",
}
if sys.version_info < (3, 12):
    ACCEPTED["exit_deletes_names"] = (
        "CPython 3.11 makes no SystemExit object for a bare sys.exit(n): a program that first deletes both of "
        "__file__ and __cached__ looks as if it had run to its end, and gets the exit code 0"
    )


def zygote_main() -> None:
    """Serve forks for a test: one message with a control socket each; each answer is a wait status."""
    import json
    import os
    import socket

    from executor_service.guest import armed, channel

    control = socket.socket(fileno=3)
    stash = armed.prepare_zygote(json.loads(os.environ["CODECELL_TEST_PRELOAD"]))
    del stash.fresh.environment[b"CODECELL_TEST_PRELOAD"]
    channel.send(control, {"word": "ready"})
    while True:
        try:
            _, fds = channel.receive(control)
        except EOFError:
            os._exit(0)
        pid = os.fork()
        if pid == 0:
            control.close()
            armed.serve_armed(socket.socket(fileno=fds[0]), stash)
            return
        channel.close(fds)
        _, status, usage = os.wait4(pid, 0)
        channel.send(control, {"status": status, "cpu_time": usage.ru_utime + usage.ru_stime})
