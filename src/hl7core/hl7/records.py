"""Names of the records of LIS02 (ASTM E1394) and their fields, and of the common segments of HL7 v2.

The fields of the records are those of CLSI LIS02-A2, clauses 6 to 14, as analyzers' manuals reprint them (Roche cobas
e411 Host Interface Manual 2.3, pages 28 to 46, has most); the record's letter is field 1.  hl7apy names the fields of
HL7 segments but not the segments: their names are those of HL7 v2.5.1, appendix A.
"""

from __future__ import annotations

from typing import Final

__all__ = ["RECORDS", "RECORD_COMPONENTS", "RECORD_FIELDS", "SEGMENTS"]

RECORDS: Final = {
    "H": "Message header",
    "P": "Patient information",
    "O": "Test order",
    "R": "Result",
    "C": "Comment",
    "Q": "Request information",
    "M": "Manufacturer information",
    "S": "Scientific",
    "L": "Message terminator",
}
"""Names of records, by their letter."""

_FIELDS: Final = {
    "H": "Delimiter definition, Message control ID, Access password, Sender name or ID, Sender street address, "
    "Reserved, Sender telephone number, Characteristics of sender, Receiver ID, Comment or special instructions, "
    "Processing ID, Version number, Date and time of message",
    "P": "Sequence number, Practice-assigned patient ID, Laboratory-assigned patient ID, Patient ID No. 3, "
    "Patient name, Mother's maiden name, Birthdate, Patient sex, Patient race or ethnic origin, Patient address, "
    "Reserved, Patient telephone number, Attending physician ID, Special field 1, Special field 2, Patient height, "
    "Patient weight, Known or suspected diagnosis, Active medications, Diet, Practice field 1, Practice field 2, "
    "Admission and discharge dates, Admission status, Location, "
    "Nature of alternative diagnostic code and classification, Alternative diagnostic code and classification, "
    "Religion, Marital status, Isolation status, Language, Hospital service, Hospital institution, Dosage category",
    "O": "Sequence number, Specimen ID, Instrument specimen ID, Universal test ID, Priority, Requested date and time, "
    "Specimen collection date and time, Collection end time, Collection volume, Collector ID, Action code, "
    "Danger code, Relevant clinical information, Date and time specimen received, Specimen descriptor, "
    "Ordering physician, Physician's telephone number, User field 1, User field 2, Laboratory field 1, "
    "Laboratory field 2, Date and time results reported or last modified, Instrument charge to computer system, "
    "Instrument section ID, Report types, Reserved, Location of specimen collection, Nosocomial infection flag, "
    "Specimen service, Specimen institution",
    "R": "Sequence number, Universal test ID, Data or measurement value, Units, Reference ranges, "
    "Result abnormal flags, Nature of abnormality testing, Result status, "
    "Date of change in normative values or units, Operator identification, Date and time test started, "
    "Date and time test completed, Instrument identification",
    "C": "Sequence number, Comment source, Comment text, Comment type",
    "Q": "Sequence number, Starting range ID number, Ending range ID number, Universal test ID, "
    "Nature of request time limits, Beginning request results date and time, Ending request results date and time, "
    "Requesting physician name, Requesting physician telephone number, User field 1, User field 2, "
    "Request information status codes",
    "M": "Sequence number",
    "S": "Sequence number, Analytical method, Instrumentation, Reagents, Units of measure, Quality control, "
    "Specimen descriptor, Reserved, Container, Specimen ID, Analyte, Result, Result units, "
    "Collection date and time, Result date and time, Analytical preprocessing steps, Patient diagnosis, "
    "Patient birthdate, Patient sex, Patient race",
    "L": "Sequence number, Termination code",
}

RECORD_FIELDS: Final = {letter: ("Record type", *names.split(", ")) for letter, names in _FIELDS.items()}
"""The names of a record's fields, from field 1 on."""

SEGMENTS: Final = {
    "ACC": "Accident",
    "ADD": "Addendum",
    "AL1": "Patient allergy information",
    "BHS": "Batch header",
    "BTS": "Batch trailer",
    "BPO": "Blood product order",
    "BPX": "Blood product dispense status",
    "BTX": "Blood product transfusion",
    "CTI": "Clinical trial identification",
    "DG1": "Diagnosis",
    "DSC": "Continuation pointer",
    "DSP": "Display data",
    "ECD": "Equipment command",
    "ECR": "Equipment command response",
    "EQP": "Equipment log",
    "EQU": "Equipment detail",
    "ERR": "Error",
    "EVN": "Event type",
    "FHS": "File header",
    "FT1": "Financial transaction",
    "FTS": "File trailer",
    "GT1": "Guarantor",
    "IN1": "Insurance",
    "IN2": "Insurance additional information",
    "INV": "Inventory detail",
    "ISD": "Interaction status detail",
    "MFE": "Master file entry",
    "MFI": "Master file identification",
    "MRG": "Merge patient information",
    "MSA": "Message acknowledgment",
    "MSH": "Message header",
    "NDS": "Notification detail",
    "NK1": "Next of kin",
    "NTE": "Notes and comments",
    "OBR": "Observation request",
    "OBX": "Observation result",
    "ORC": "Common order",
    "PD1": "Patient additional demographic",
    "PID": "Patient identification",
    "PV1": "Patient visit",
    "PV2": "Patient visit, additional information",
    "QAK": "Query acknowledgment",
    "QPD": "Query parameter definition",
    "QRD": "Query definition",
    "QRF": "Query filter",
    "RCP": "Response control parameter",
    "SAC": "Specimen container detail",
    "SFT": "Software",
    "SID": "Substance identifier",
    "SPM": "Specimen",
    "TCC": "Test code configuration",
    "TCD": "Test code detail",
    "TQ1": "Timing and quantity",
    "TQ2": "Timing and quantity relationship",
    "TXA": "Transcription document header",
    "UAC": "User authentication credential",
}
"""What a segment's name stands for."""

_TEST: Final = ("Universal test ID", "Test name", "Test ID type", "Manufacturer's code")
_PERSON: Final = ("Last name", "First name", "Middle name", "Suffix", "Title")
RECORD_COMPONENTS: Final = {
    ("O", 5): _TEST,
    ("R", 3): _TEST,
    ("Q", 5): _TEST,
    ("P", 6): _PERSON,
    ("P", 7): _PERSON,
}
"""The names of a record field's components, from component 1 on."""
