"""The space that is searched: parameters, rules, the start design, the unit cube."""
