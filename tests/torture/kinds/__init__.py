"""One module a kind of attack, with a class ``Attack`` (:class:`tests.torture.attack.Kind`). A new file is a new kind."""
