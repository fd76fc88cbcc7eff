"""What `conftest` hangs on annotated functions; an int is good where a float is asked for (PEP
484).
"""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
