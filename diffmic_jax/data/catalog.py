"""The data sets known by name: how each is distributed, and how its authors describe it.

A data set is added here, by a `DataSet` in `CATALOG`: opening, `prepare` and `audit` need no more.
Images in a folder per class need no entry. Nothing here reads a file.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A published set of images, as its distribution lays it out under one folder."""

    name: str
    class_names: tuple[str, ...]
    """In label order; empty where the folders or lists decide."""
    ordered: bool = False
    """The classes are degrees."""
    count: int
    """Images in the complete set."""
    where: str
    """Which archives to download from where, and what the folder has to contain."""
    labels: tuple[str, ...] = ()
    """CSVs of labels, of which the first found is read; none: a folder per class, or lists."""
    groups: tuple[str, ...] = ()
    """CSVs of groups, of which the first found is read, unless the table of labels has them."""
    official: tuple[str, str] | None = None
    """Text files of image names: the training and the test part of the set itself."""
    lists: tuple[str, str] | None = None
    """DiffMIC's pickled split lists."""
    multi_label: bool = False
    ignored: str = ""
    """Pattern of the names of files that are not images of the set, such as masks."""
    description: str = ""
    homepage: str = ""
    citation: str = ""


FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)

HAM10000 = DataSet(
    name="ham10000",
    class_names=("mel", "nv", "bcc", "akiec", "bkl", "df", "vasc"),
    count=10_015,
    where=(
        "download the ISIC 2018 task 3 training archives (ISIC2018_Task3_Training_Input.zip, "
        "ISIC2018_Task3_Training_GroundTruth.zip) from https://challenge.isic-archive.com/data/ "
        "and HAM10000_metadata.csv from https://doi.org/10.7910/DVN/DBW86T, and unpack them there"
    ),
    labels=("ISIC2018_Task3_Training_GroundTruth.csv", "HAM10000_metadata.csv"),
    groups=("HAM10000_metadata.csv", "ISIC2018_Task3_Training_LesionGroupings.csv"),
    lists=("isic2018_train.pkl", "isic2018_test.pkl"),
    description="Dermatoscopic images of pigmented skin lesions in seven diagnostic classes.",
    homepage="https://doi.org/10.7910/DVN/DBW86T",
    citation="""@article{tschandl2018ham10000,
  title={The {HAM10000} dataset, a large collection of multi-source dermatoscopic images of common
    pigmented skin lesions},
  author={Tschandl, Philipp and Rosendahl, Cliff and Kittler, Harald},
  journal={Scientific Data}, volume={5}, pages={180161}, year={2018}}""",
)

APTOS2019 = DataSet(
    name="aptos2019",
    class_names=("no_dr", "mild", "moderate", "severe", "proliferative"),
    ordered=True,
    count=3_662,
    where=(
        "download aptos2019-blindness-detection.zip from "
        "https://www.kaggle.com/c/aptos2019-blindness-detection and unpack train.csv and "
        "train_images/ there"
    ),
    labels=("train.csv",),
    lists=("aptos_train.pkl", "aptos_test.pkl"),
    description="Fundus photographs graded for diabetic retinopathy on a scale of five.",
    homepage="https://www.kaggle.com/c/aptos2019-blindness-detection",
    citation="""@misc{aptos2019,
  title={{APTOS} 2019 Blindness Detection}, author={Karthik and Maggie and Dane, Sohier},
  howpublished={Kaggle}, year={2019}}""",
)

CHESTXRAY14 = DataSet(
    name="chestxray14",
    class_names=FINDINGS,
    count=112_120,
    where=(
        "download images_001.tar.gz to images_012.tar.gz, Data_Entry_2017.csv, "
        "train_val_list.txt and test_list.txt from https://nihcc.app.box.com/v/ChestXray-NIHCC, "
        "put the CSV and the lists there and unpack the archives there"
    ),
    labels=("Data_Entry_2017.csv", "Data_Entry_2017_v2020.csv"),
    official=("train_val_list.txt", "test_list.txt"),
    multi_label=True,
    description="Frontal chest X-rays of 30,805 patients, labelled with 14 findings.",
    homepage="https://nihcc.app.box.com/v/ChestXray-NIHCC",
    citation="""@inproceedings{wang2017chestxray8,
  title={{ChestX-ray8}: Hospital-scale chest {X}-ray database and benchmarks on weakly-supervised
    classification and localization of common thorax diseases},
  author={Wang, Xiaosong and Peng, Yifan and Lu, Le and Lu, Zhiyong and Bagheri, Mohammadhadi and
    Summers, Ronald M.},
  booktitle={CVPR}, pages={2097--2106}, year={2017}}""",
)

PMG2000 = DataSet(
    name="pmg2000",
    class_names=(),
    count=2_098,
    where="PMG2000 is not public; put your own images there, one folder per grade, or "
    "train.pkl and test.pkl, lists of {'img_root': path, 'label': int}, and the images they name",
    description="Placental ultrasound images in four grades of maturity.",
    homepage="https://doi.org/10.1007/978-3-031-43987-2_10",
    citation="""@inproceedings{yang2023diffmic,
  title={{DiffMIC}: Dual-guidance diffusion network for medical image classification},
  author={Yang, Yijun and Fu, Huazhu and Aviles-Rivero, Angelica I. and Sch{\\"o}nlieb,
    Carola-Bibiane and Zhu, Lei},
  booktitle={MICCAI}, pages={95--105}, year={2023}}""",
)

BUSI = DataSet(
    name="busi",
    class_names=("benign", "malignant", "normal"),
    count=780,
    where=(
        "download Dataset_BUSI.zip from https://scholar.cu.edu.eg/?q=afahmy/pages/dataset and put "
        "the folders benign, malignant and normal there"
    ),
    ignored="*_mask*.png",
    description="Breast ultrasound images with a benign, a malignant or no finding.",
    homepage="https://scholar.cu.edu.eg/?q=afahmy/pages/dataset",
    citation="""@article{aldhabyani2020busi,
  title={Dataset of breast ultrasound images},
  author={Al-Dhabyani, Walid and Gomaa, Mohammed and Khaled, Hussien and Fahmy, Aly},
  journal={Data in Brief}, volume={28}, pages={104863}, year={2020}}""",
)

CATALOG = {each.name: each for each in (HAM10000, APTOS2019, CHESTXRAY14, PMG2000, BUSI)}

_ORGANS = (
    "bladder",
    "femur-left",
    "femur-right",
    "heart",
    "kidney-left",
    "kidney-right",
    "liver",
    "lung-left",
    "lung-right",
    "pancreas",
    "spleen",
)
MEDMNIST: dict[str, tuple[str, ...]] = {
    "pathmnist": (
        "adipose",
        "background",
        "debris",
        "lymphocytes",
        "mucus",
        "smooth muscle",
        "normal colon mucosa",
        "cancer-associated stroma",
        "colorectal adenocarcinoma epithelium",
    ),
    "chestmnist": tuple(name.replace("_Thickening", "").lower() for name in FINDINGS),
    "dermamnist": ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"),
    "octmnist": (
        "choroidal neovascularization",
        "diabetic macular edema",
        "drusen",
        "normal",
    ),
    "pneumoniamnist": ("normal", "pneumonia"),
    "retinamnist": ("0", "1", "2", "3", "4"),
    "breastmnist": ("malignant", "normal or benign"),
    "bloodmnist": (
        "basophil",
        "eosinophil",
        "erythroblast",
        "immature granulocytes",
        "lymphocyte",
        "monocyte",
        "neutrophil",
        "platelet",
    ),
    "tissuemnist": (
        "collecting duct, connecting tubule",
        "distal convoluted tubule",
        "glomerular endothelial cells",
        "interstitial endothelial cells",
        "leukocytes",
        "podocytes",
        "proximal tubule segments",
        "thick ascending limb",
    ),
    "organamnist": _ORGANS,
    "organcmnist": _ORGANS,
    "organsmnist": _ORGANS,
}
"""Classes of MedMNIST's two-dimensional members, in label order."""
MEDMNIST_COUNTS: dict[str, tuple[int, int, int]] = {
    "pathmnist": (89_996, 10_004, 7_180),
    "chestmnist": (78_468, 11_219, 22_433),
    "dermamnist": (7_007, 1_003, 2_005),
    "octmnist": (97_477, 10_832, 1_000),
    "pneumoniamnist": (4_708, 524, 624),
    "retinamnist": (1_080, 120, 400),
    "breastmnist": (546, 78, 156),
    "bloodmnist": (11_959, 1_712, 3_421),
    "tissuemnist": (165_466, 23_640, 47_280),
    "organamnist": (34_561, 6_491, 17_778),
    "organcmnist": (12_975, 2_392, 8_216),
    "organsmnist": (13_932, 2_452, 8_827),
}
"""Training, validation and test images of each, as they are published."""
MEDMNIST_WHERE = (
    "download {name}.npz (or another size of it) from https://medmnist.com and put it there"
)
