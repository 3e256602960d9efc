from tests.experiments.data import fuzz, odd_sets


def test_damaged_and_odd_files_of_every_form_are_told_in_one_line():
    said = []
    cases = sum(len(form.damages) for form in odd_sets.FORMS)
    table = fuzz.fuzz(seed=14, tries=2 * cases, show=said.append)
    assert not said
    assert len(table) == cases
    assert all(row["clean"] == row["tries"] == 2 for row in table.values())


def test_a_bad_try_is_counted_and_can_be_made_again(monkeypatch):
    def careless(path):
        if path.parent.name == "try":
            raise KeyError("as a reader that looks at nothing")
        return whole(path)

    forms = [form for form in odd_sets.FORMS if form.name == "npz.stored"]
    whole = fuzz.read_source
    monkeypatch.setattr(odd_sets, "FORMS", tuple(forms))
    monkeypatch.setattr(fuzz, "read_source", careless)
    said = []
    table = fuzz.fuzz(seed=1, tries=2, show=said.append)
    assert [row["bad"] for row in table.values()] == [1, 1]
    assert said[0].startswith("bad: seed 1 try 0, npz.stored, set.npz, bits [")
    assert "all: 2 tries, 2 bad" in fuzz.as_text(table)
