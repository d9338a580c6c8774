//! What an ONNX file's messages hold.
//!
//! Owns: the tables of onnx-ml.proto (onnx 1.23, IR version 14): each message's fields with their numbers and forms.
//! Promises: as that file has it; `repeated` is what may come again. Leaves out: what the values must be.

use Form::{Bytes, Doubles, Float, Floats, Ints, Message, Text, Varint};
use Times::{Many, Once};

/// A message type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    Sparse,
    Function,
    Training,
    /// `StringStringEntryProto`: a key and a value.
    Entry,
    Opset,
    ValueInfo,
    Type,
    TypeOfTensor,
    TypeInside,
    TypeOfMap,
    TypeOpaque,
    Shape,
    Dimension,
    Annotation,
    Segment,
    NodeDevice,
    Sharding,
    DeviceGroup,
    ShardedDim,
    SimpleSharding,
    Device,
}

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A number by wire type 0.
    Varint,
    /// One 32-bit float.
    Float,
    /// UTF-8.
    Text,
    /// Anything.
    Bytes,
    /// Varints, packed or one by one.
    Ints,
    /// 32-bit floats, packed or one by one.
    Floats,
    /// 64-bit floats, packed or one by one.
    Doubles,
    /// A message of this type.
    Message(Kind),
}

/// How often a field may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Times {
    Once,
    Many,
}

/// Number, name, form, times.
pub(super) type Row = (u32, &'static str, Form, Times);

impl Kind {
    /// The message's fields.
    pub(super) fn fields(self) -> &'static [Row] {
        match self {
            Kind::Model => MODEL,
            Kind::Graph => GRAPH,
            Kind::Node => NODE,
            Kind::Attribute => ATTRIBUTE,
            Kind::Tensor => TENSOR,
            Kind::Sparse => &[
                (1, "values", Message(Kind::Tensor), Once),
                (2, "indices", Message(Kind::Tensor), Once),
                (3, "dims", Ints, Many),
            ],
            Kind::Function => FUNCTION,
            Kind::Training => &[
                (1, "initialization", Message(Kind::Graph), Once),
                (2, "algorithm", Message(Kind::Graph), Once),
                (3, "initialization_binding", Message(Kind::Entry), Many),
                (4, "update_binding", Message(Kind::Entry), Many),
            ],
            Kind::Entry => &[(1, "key", Text, Once), (2, "value", Text, Once)],
            Kind::Opset => &[(1, "domain", Text, Once), (2, "version", Varint, Once)],
            Kind::ValueInfo => &[
                (1, "name", Text, Once),
                (2, "type", Message(Kind::Type), Once),
                (3, "doc_string", Text, Once),
                (4, "metadata_props", Message(Kind::Entry), Many),
            ],
            Kind::Type => &[
                (1, "tensor_type", Message(Kind::TypeOfTensor), Once),
                (4, "sequence_type", Message(Kind::TypeInside), Once),
                (5, "map_type", Message(Kind::TypeOfMap), Once),
                (6, "denotation", Text, Once),
                (7, "opaque_type", Message(Kind::TypeOpaque), Once),
                (8, "sparse_tensor_type", Message(Kind::TypeOfTensor), Once),
                (9, "optional_type", Message(Kind::TypeInside), Once),
            ],
            Kind::TypeOfTensor => &[(1, "elem_type", Varint, Once), (2, "shape", Message(Kind::Shape), Once)],
            Kind::TypeInside => &[(1, "elem_type", Message(Kind::Type), Once)],
            Kind::TypeOfMap => &[(1, "key_type", Varint, Once), (2, "value_type", Message(Kind::Type), Once)],
            Kind::TypeOpaque => &[(1, "domain", Text, Once), (2, "name", Text, Once)],
            Kind::Shape => &[(1, "dim", Message(Kind::Dimension), Many)],
            Kind::Dimension => {
                &[(1, "dim_value", Varint, Once), (2, "dim_param", Text, Once), (3, "denotation", Text, Once)]
            }
            Kind::Annotation => {
                &[(1, "tensor_name", Text, Once), (2, "quant_parameter_tensor_names", Message(Kind::Entry), Many)]
            }
            Kind::Segment => &[(1, "begin", Varint, Once), (2, "end", Varint, Once)],
            Kind::NodeDevice => &[
                (1, "configuration_id", Text, Once),
                (2, "sharding_spec", Message(Kind::Sharding), Many),
                (3, "pipeline_stage", Varint, Once),
            ],
            Kind::Sharding => &[
                (1, "tensor_name", Text, Once),
                (2, "device", Ints, Many),
                (3, "index_to_device_group_map", Message(Kind::DeviceGroup), Many),
                (4, "sharded_dim", Message(Kind::ShardedDim), Many),
            ],
            Kind::DeviceGroup => &[(1, "key", Varint, Once), (2, "value", Ints, Many)],
            Kind::ShardedDim => {
                &[(1, "axis", Varint, Once), (2, "simple_sharding", Message(Kind::SimpleSharding), Many)]
            }
            Kind::SimpleSharding => {
                &[(1, "dim_value", Varint, Once), (2, "dim_param", Text, Once), (3, "num_shards", Varint, Once)]
            }
            Kind::Device => &[(1, "name", Text, Once), (2, "num_devices", Varint, Once), (3, "device", Text, Many)],
        }
    }

    /// The message's name in onnx-ml.proto, or near it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Model => "ModelProto",
            Kind::Graph => "GraphProto",
            Kind::Node => "NodeProto",
            Kind::Attribute => "AttributeProto",
            Kind::Tensor => "TensorProto",
            Kind::Sparse => "SparseTensorProto",
            Kind::Function => "FunctionProto",
            Kind::Training => "TrainingInfoProto",
            Kind::Entry => "StringStringEntryProto",
            Kind::Opset => "OperatorSetIdProto",
            Kind::ValueInfo => "ValueInfoProto",
            Kind::Type | Kind::TypeOfTensor | Kind::TypeInside | Kind::TypeOfMap | Kind::TypeOpaque => "TypeProto",
            Kind::Shape | Kind::Dimension => "TensorShapeProto",
            Kind::Annotation => "TensorAnnotation",
            Kind::Segment => "Segment",
            Kind::NodeDevice => "NodeDeviceConfigurationProto",
            Kind::Sharding | Kind::DeviceGroup | Kind::ShardedDim | Kind::SimpleSharding => "ShardingSpecProto",
            Kind::Device => "DeviceConfigurationProto",
        }
    }
}

pub(super) const MODEL: &[Row] = &[
    (1, "ir_version", Varint, Once),
    (2, "producer_name", Text, Once),
    (3, "producer_version", Text, Once),
    (4, "domain", Text, Once),
    (5, "model_version", Varint, Once),
    (6, "doc_string", Text, Once),
    (7, "graph", Message(Kind::Graph), Once),
    (8, "opset_import", Message(Kind::Opset), Many),
    (14, "metadata_props", Message(Kind::Entry), Many),
    (20, "training_info", Message(Kind::Training), Many),
    (25, "functions", Message(Kind::Function), Many),
    (26, "configuration", Message(Kind::Device), Many),
];

const GRAPH: &[Row] = &[
    (1, "node", Message(Kind::Node), Many),
    (2, "name", Text, Once),
    (5, "initializer", Message(Kind::Tensor), Many),
    (10, "doc_string", Text, Once),
    (11, "input", Message(Kind::ValueInfo), Many),
    (12, "output", Message(Kind::ValueInfo), Many),
    (13, "value_info", Message(Kind::ValueInfo), Many),
    (14, "quantization_annotation", Message(Kind::Annotation), Many),
    (15, "sparse_initializer", Message(Kind::Sparse), Many),
    (16, "metadata_props", Message(Kind::Entry), Many),
];

const NODE: &[Row] = &[
    (1, "input", Text, Many),
    (2, "output", Text, Many),
    (3, "name", Text, Once),
    (4, "op_type", Text, Once),
    (5, "attribute", Message(Kind::Attribute), Many),
    (6, "doc_string", Text, Once),
    (7, "domain", Text, Once),
    (8, "overload", Text, Once),
    (9, "metadata_props", Message(Kind::Entry), Many),
    (10, "device_configurations", Message(Kind::NodeDevice), Many),
];

const ATTRIBUTE: &[Row] = &[
    (1, "name", Text, Once),
    (2, "f", Float, Once),
    (3, "i", Varint, Once),
    (4, "s", Bytes, Once),
    (5, "t", Message(Kind::Tensor), Once),
    (6, "g", Message(Kind::Graph), Once),
    (7, "floats", Floats, Many),
    (8, "ints", Ints, Many),
    (9, "strings", Bytes, Many),
    (10, "tensors", Message(Kind::Tensor), Many),
    (11, "graphs", Message(Kind::Graph), Many),
    (13, "doc_string", Text, Once),
    (14, "tp", Message(Kind::Type), Once),
    (15, "type_protos", Message(Kind::Type), Many),
    (20, "type", Varint, Once),
    (21, "ref_attr_name", Text, Once),
    (22, "sparse_tensor", Message(Kind::Sparse), Once),
    (23, "sparse_tensors", Message(Kind::Sparse), Many),
];

const TENSOR: &[Row] = &[
    (1, "dims", Ints, Many),
    (2, "data_type", Varint, Once),
    (3, "segment", Message(Kind::Segment), Once),
    (4, "float_data", Floats, Many),
    (5, "int32_data", Ints, Many),
    (6, "string_data", Bytes, Many),
    (7, "int64_data", Ints, Many),
    (8, "name", Text, Once),
    (9, "raw_data", Bytes, Once),
    (10, "double_data", Doubles, Many),
    (11, "uint64_data", Ints, Many),
    (12, "doc_string", Text, Once),
    (13, "external_data", Message(Kind::Entry), Many),
    (14, "data_location", Varint, Once),
    (16, "metadata_props", Message(Kind::Entry), Many),
];

const FUNCTION: &[Row] = &[
    (1, "name", Text, Once),
    (4, "input", Text, Many),
    (5, "output", Text, Many),
    (6, "attribute", Text, Many),
    (7, "node", Message(Kind::Node), Many),
    (8, "doc_string", Text, Once),
    (9, "opset_import", Message(Kind::Opset), Many),
    (10, "domain", Text, Once),
    (11, "attribute_proto", Message(Kind::Attribute), Many),
    (12, "value_info", Message(Kind::ValueInfo), Many),
    (13, "overload", Text, Once),
    (14, "metadata_props", Message(Kind::Entry), Many),
];

/// An element type: its number, its name and the bits of one element; text has no fixed size.
pub(super) const ELEMENT_TYPES: [(i64, &str, u64); 28] = [
    (1, "FLOAT", 32),
    (2, "UINT8", 8),
    (3, "INT8", 8),
    (4, "UINT16", 16),
    (5, "INT16", 16),
    (6, "INT32", 32),
    (7, "INT64", 64),
    (8, "STRING", 0),
    (9, "BOOL", 8),
    (10, "FLOAT16", 16),
    (11, "DOUBLE", 64),
    (12, "UINT32", 32),
    (13, "UINT64", 64),
    (14, "COMPLEX64", 64),
    (15, "COMPLEX128", 128),
    (16, "BFLOAT16", 16),
    (17, "FLOAT8E4M3FN", 8),
    (18, "FLOAT8E4M3FNUZ", 8),
    (19, "FLOAT8E5M2", 8),
    (20, "FLOAT8E5M2FNUZ", 8),
    (21, "UINT4", 4),
    (22, "INT4", 4),
    (23, "FLOAT4E2M1", 4),
    (24, "FLOAT8E8M0", 8),
    (25, "UINT2", 2),
    (26, "INT2", 2),
    (27, "FLOAT6E2M3", 6),
    (28, "FLOAT6E3M2", 6),
];
