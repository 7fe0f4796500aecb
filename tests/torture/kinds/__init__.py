"""A module a kind of attack, with a class ``Attack`` (:class:`tests.torture.attack.Kind`): a new file is a new kind."""
