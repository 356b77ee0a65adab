"""The items of two reporting checklists, in our own words, by the numbers of their publications.

- CLAIM: Tejani et al., Checklist for Artificial Intelligence in Medical Imaging, 2024 update,
  Radiology: Artificial Intelligence 6(4), e240300.
- TRIPOD+AI: Collins et al., BMJ 2024, 385, e078378.

`Item.run` is a format string over the names that `checklist.facts` returns; `Item.authors` is what
only the authors of a study can add.
"""

from __future__ import annotations

from typing import NamedTuple


class Item(NamedTuple):
    """One item; at least one of `run` and `authors` is not empty."""

    number: str
    topic: str
    run: str = ""
    authors: str = ""


CLAIM = (
    Item("1", "title", authors="name the kind of method: a diffusion model over the label"),
    Item("2", "abstract", authors="design, data, results with intervals, conclusion"),
    Item("3", "background", "{use}", "the clinical question, and the role of the software"),
    Item("4", "aims", authors="objectives, and the hypotheses that were set beforehand"),
    Item(
        "5", "direction of the study", authors="whether images were collected before it, or for it"
    ),
    Item("6", "kind of study", authors="a new model, a feasibility or a comparative study"),
    Item("7", "sources of data", "{data}", "centres, dates, consent, licence"),
    Item("8", "who is in it", "left out by the software: {skipped}", "criteria of the collection"),
    Item("9", "preprocessing", "{preprocessing}", "what was done to the files before"),
    Item("10", "parts of the data used", "{images}", "why these, if the source has more"),
    Item("11", "privacy", authors="how names were removed; patient data burnt into the pixels"),
    Item("12", "missing data", "{missing}", "missing labels and clinical variables"),
    Item("13", "how images were taken", authors="devices, settings, operators"),
    Item("14", "reference standard", "{labels}", "how each label was established"),
    Item("15", "why this standard", authors="its known errors, and what would have been better"),
    Item("16", "who annotated", authors="number, training and experience of the readers"),
    Item("17", "labels of the test part", authors="whether these were made with more care"),
    Item("18", "agreement of readers", authors="within and between readers, with intervals"),
    Item("19", "how the split was made", "{split}"),
    Item("20", "what the parts do not share", "{disjoint}", "patients, sites, devices, dates"),
    Item("21", "size planned", authors="how the number of test images was decided"),
    Item("22", "model", "{model}; {diffusion}; {prediction}"),
    Item("23", "software", "{versions}"),
    Item("24", "where parameters start", "{origins}"),
    Item("25", "training", "{training}; {augmentation}", "other settings that were tried"),
    Item(
        "26", "choice of the final model", "{selection}", "choices made by eye, and on which part"
    ),
    Item("27", "ensembles", "{ensemble}; {prediction}", "further models, if joined"),
    Item("28", "measures", "{measures}", "which one was primary, and why"),
    Item("29", "uncertainty, significance", "{intervals}", "tests and thresholds set beforehand"),
    Item("30", "robustness", authors="other seeds, subgroups, image quality, other settings"),
    Item("31", "explanations", "{regions}", "whether they were checked against readers"),
    Item("32", "internal data", "{internal}"),
    Item("33", "external data", "{external}", "whose images these are, or that there are none"),
    Item("34", "registration", authors="of a trial, with its number"),
    Item("35", "how many came in and went out", "{images}; left out: {skipped}", "patients, flow"),
    Item("36", "who is in each part", "{distribution}", "age, sex, severity, devices, by part"),
    Item("37", "results", "{results}"),
    Item("38", "diagnostic results by class", "{per_class}", "at the thresholds meant for use"),
    Item("39", "errors", "{errors}", "what the misclassified images have in common"),
    Item("40", "limits", "{limits}", "bias of the collection, of the labels, of the tuning"),
    Item("41", "meaning for practice", "{use}", "who would use it, when, and what might go wrong"),
    Item("42", "protocol", authors="where the full plan can be read"),
    Item("43", "availability", "configuration SHA-256 {hash}", "code, parameters, data, split.csv"),
    Item("44", "funding", authors="sources, and what the funders decided"),
)

TRIPOD_AI = (
    Item("1", "title", authors="development or evaluation of a model, for whom and for what"),
    Item("2", "abstract", authors="by TRIPOD+AI's own list for abstracts"),
    Item("3a", "background", authors="the decision at stake, and models that exist"),
    Item("3b", "who and where", "{use}", "patients, place in their care, users"),
    Item("3c", "inequalities", authors="known differences of health and care between groups"),
    Item("4", "aims", authors="development, evaluation, or both"),
    Item("5a", "sources of data", "{data}", "why this source, and whom it represents"),
    Item("5b", "dates", authors="first and last image, end of follow-up"),
    Item("6a", "setting", authors="kind of care, number and place of centres"),
    Item("6b", "who is in it", "left out by the software: {skipped}", "criteria"),
    Item("6c", "treatments", authors="any before the image that change what it shows"),
    Item("7", "preparation", "{preprocessing}", "quality checks, and whether alike in all groups"),
    Item("8a", "outcome", "{labels}", "how and when it was established"),
    Item("8b", "judges of the outcome", authors="their training, if judgement was needed"),
    Item("8c", "blinding for the outcome", authors="whether they knew the image or the prediction"),
    Item("9a", "choice of predictors", "the image alone", "why nothing else"),
    Item("9b", "definition of predictors", "{preprocessing}", "how and when the image was taken"),
    Item("9c", "judges of predictors", authors="who chose or cropped the images"),
    Item("10", "size", "{images}", "why that is enough for development and for evaluation"),
    Item("11", "missing data", "{missing}", "missing labels, and patients left out for them"),
    Item("12a", "use of the data", "{split}"),
    Item("12b", "handling of predictors", "{augmentation}"),
    Item(
        "12c", "model and tuning", "{model}; {diffusion}; {training}; {selection}", "settings tried"
    ),
    Item("12d", "clusters", authors="differences between centres or devices"),
    Item("12e", "measures", "{measures}; {intervals}", "usefulness for the decision"),
    Item("12f", "recalibration", "{calibration}"),
    Item("12g", "how predictions are made", "{prediction}"),
    Item("13", "imbalance", "{imbalance}", "whether the shares are those of practice"),
    Item("14", "fairness", authors="groups that were looked at, and how"),
    Item("15", "output", "{output}", "thresholds for use, and how they were chosen"),
    Item(
        "16", "training against evaluation", "{disjoint}", "differences in setting, people, outcome"
    ),
    Item("17", "ethics", authors="committee and number, or why none; consent"),
    Item("18a", "funding", authors="sources, and what the funders decided"),
    Item("18b", "interests", authors="of all authors"),
    Item("18c", "protocol", authors="where it can be read, or that there is none"),
    Item("18d", "registration", authors="register and number, or that there is none"),
    Item("18e", "data", authors="where and under which terms"),
    Item("18f", "code", "diffmic_jax; configuration SHA-256 {hash}", "where yours is"),
    Item("19", "patients and public", authors="how they took part, or that they did not"),
    Item("20a", "flow", "{images}; left out: {skipped}", "patients, with and without the outcome"),
    Item("20b", "who is in it", "{distribution}", "age, sex, ethnicity, sites, dates"),
    Item("20c", "parts compared", "{distribution}", "predictors and patients, part by part"),
    Item("21", "numbers analysed", "{images}; {distribution}"),
    Item("22", "full model", "checkpoints/ and config.json; {versions}", "where others get it"),
    Item("23a", "results", "{results}; {per_class}", "in groups of patients"),
    Item("23b", "results by cluster", authors="by centre or device"),
    Item("24", "results of recalibration", "{calibration_results}"),
    Item("25", "interpretation", authors="what it means, fairness included, beside other studies"),
    Item("26", "limits", "{limits}", "representativeness, size, missing data"),
    Item("27a", "poor input", "{poor_input}", "what a user should do with such an image"),
    Item("27b", "users", "{use}", "what they do and have to know"),
    Item("27c", "next steps", authors="what has to be studied before use"),
)
