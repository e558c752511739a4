"""The default config tree: Detectron2's keys, values and types."""

from detectron2.config.config import CfgNode

# fmt: off
_C = CfgNode(
    {
        "VERSION": 2,  # key names changed with 1 and 2; see compat.py
        "MODEL": {
            "LOAD_PROPOSALS": False, "MASK_ON": False, "KEYPOINT_ON": False,
            "DEVICE": "cuda",  # where build_model puts the model
            "META_ARCHITECTURE": "GeneralizedRCNN",
            "WEIGHTS": "",  # path or URL of the weights that training starts from, or that are evaluated
            "PIXEL_MEAN": [103.53, 116.28, 123.675],  # per channel, in the order of INPUT.FORMAT, on the 0-255 scale
            "PIXEL_STD": [1.0, 1.0, 1.0],  # 1 for the Caffe-style ImageNet weights; about 57 to 58 for torchvision's
            "BACKBONE": {
                "NAME": "build_resnet_backbone",
                "FREEZE_AT": 2,  # 0: nothing; 1: stem; 2: stem and res2; ...
            },
            "FPN": {
                "IN_FEATURES": [], "OUT_CHANNELS": 256, "NORM": "",
                "FUSE_TYPE": "sum",  # sum or avg
            },
            "PROPOSAL_GENERATOR": {
                "NAME": "RPN",  # RPN, PrecomputedProposals or any registered generator
                "MIN_SIZE": 0,  # proposals with a side of at most this many pixels are dropped
            },
            "ANCHOR_GENERATOR": {
                "NAME": "DefaultAnchorGenerator",
                # square root of the area in pixels; one list for all levels or one for each
                "SIZES": [[32, 64, 128, 256, 512]],
                "ASPECT_RATIOS": [[0.5, 1.0, 2.0]],  # height / width; as above
                "ANGLES": [[-90, 0, 90]],
                "OFFSET": 0.0,  # of the first anchor centre, in strides
            },
            "RPN": {
                "HEAD_NAME": "StandardRPNHead", "IN_FEATURES": ["res4"],
                "BOUNDARY_THRESH": -1,  # anchors that leave the image by more pixels are not trained; -1: all are
                "IOU_THRESHOLDS": [0.3, 0.7],  # below the first: background; above the second: object; between: ignored
                "IOU_LABELS": [0, -1, 1], "BATCH_SIZE_PER_IMAGE": 256, "POSITIVE_FRACTION": 0.5,
                "BBOX_REG_LOSS_TYPE": "smooth_l1",  # smooth_l1, giou, diou or ciou
                "BBOX_REG_LOSS_WEIGHT": 1.0, "BBOX_REG_WEIGHTS": (1.0, 1.0, 1.0, 1.0),
                "SMOOTH_L1_BETA": 0.0,  # 0: plain L1
                "LOSS_WEIGHT": 1.0,
                "PRE_NMS_TOPK_TRAIN": 12000,  # per level
                "PRE_NMS_TOPK_TEST": 6000,
                "POST_NMS_TOPK_TRAIN": 2000,  # over all levels
                "POST_NMS_TOPK_TEST": 1000, "NMS_THRESH": 0.7,
                "CONV_DIMS": [-1],  # -1: as many channels as the input has
            },
            "ROI_HEADS": {
                "NAME": "Res5ROIHeads",
                "NUM_CLASSES": 80,  # without background
                "IN_FEATURES": ["res4"], "IOU_THRESHOLDS": [0.5], "IOU_LABELS": [0, 1], "BATCH_SIZE_PER_IMAGE": 512,
                "POSITIVE_FRACTION": 0.25,  # largest share of foreground in a sampled batch
                "SCORE_THRESH_TEST": 0.05, "NMS_THRESH_TEST": 0.5,
                "PROPOSAL_APPEND_GT": True,  # training proposals include the ground truth
            },
            "ROI_BOX_HEAD": {
                "NAME": "", "BBOX_REG_LOSS_TYPE": "smooth_l1", "BBOX_REG_LOSS_WEIGHT": 1.0,
                "BBOX_REG_WEIGHTS": (10.0, 10.0, 5.0, 5.0), "SMOOTH_L1_BETA": 0.0, "POOLER_RESOLUTION": 14,
                "POOLER_SAMPLING_RATIO": 0,  # 0: chosen from the size of the region
                "POOLER_TYPE": "ROIAlignV2", "NUM_FC": 0, "FC_DIM": 1024, "NUM_CONV": 0, "CONV_DIM": 256, "NORM": "",
                "CLS_AGNOSTIC_BBOX_REG": False, "TRAIN_ON_PRED_BOXES": False,
                "USE_FED_LOSS": False,  # federated loss; needs class_image_count in the metadata of the training set
                "USE_SIGMOID_CE": False, "FED_LOSS_FREQ_WEIGHT_POWER": 0.5, "FED_LOSS_NUM_CLASSES": 50,
            },
            "ROI_BOX_CASCADE_HEAD": {
                "BBOX_REG_WEIGHTS": ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0)),
                "IOUS": (0.5, 0.6, 0.7),  # one stage each
            },
            "ROI_MASK_HEAD": {
                "NAME": "MaskRCNNConvUpsampleHead", "POOLER_RESOLUTION": 14, "POOLER_SAMPLING_RATIO": 0, "NUM_CONV": 0,
                "CONV_DIM": 256, "NORM": "", "CLS_AGNOSTIC_MASK": False, "POOLER_TYPE": "ROIAlignV2",
            },
            "ROI_KEYPOINT_HEAD": {
                "NAME": "KRCNNConvDeconvUpsampleHead", "POOLER_RESOLUTION": 14, "POOLER_SAMPLING_RATIO": 0,
                "CONV_DIMS": (512, 512, 512, 512, 512, 512, 512, 512), "NUM_KEYPOINTS": 17,
                "MIN_KEYPOINTS_PER_IMAGE": 1, "NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS": True, "LOSS_WEIGHT": 1.0,
                "POOLER_TYPE": "ROIAlignV2",
            },
            "SEM_SEG_HEAD": {
                "NAME": "SemSegFPNHead", "IN_FEATURES": ["p2", "p3", "p4", "p5"],
                "IGNORE_VALUE": 255,  # label of pixels without annotation
                "NUM_CLASSES": 54, "CONVS_DIM": 128,
                "COMMON_STRIDE": 4,  # of the prediction, before it is enlarged
                "NORM": "GN", "LOSS_WEIGHT": 1.0,
            },
            "PANOPTIC_FPN": {
                "INSTANCE_LOSS_WEIGHT": 1.0,
                "COMBINE": {
                    "ENABLED": True,
                    "OVERLAP_THRESH": 0.5,  # a mask that is covered more than this is dropped
                    "STUFF_AREA_LIMIT": 4096,  # pixels
                    "INSTANCES_CONFIDENCE_THRESH": 0.5,
                },
            },
            "RETINANET": {
                "NUM_CLASSES": 80, "IN_FEATURES": ["p3", "p4", "p5", "p6", "p7"], "NUM_CONVS": 4,
                "IOU_THRESHOLDS": [0.4, 0.5], "IOU_LABELS": [0, -1, 1], "PRIOR_PROB": 0.01, "SCORE_THRESH_TEST": 0.05,
                "TOPK_CANDIDATES_TEST": 1000, "NMS_THRESH_TEST": 0.5, "BBOX_REG_WEIGHTS": (1.0, 1.0, 1.0, 1.0),
                "FOCAL_LOSS_GAMMA": 2.0, "FOCAL_LOSS_ALPHA": 0.25, "SMOOTH_L1_LOSS_BETA": 0.1,
                "BBOX_REG_LOSS_TYPE": "smooth_l1", "NORM": "",
            },
            "RESNETS": {
                "DEPTH": 50,  # 18, 34, 50, 101 or 152
                "OUT_FEATURES": ["res4"], "NUM_GROUPS": 1, "NORM": "FrozenBN", "WIDTH_PER_GROUP": 64,
                "STRIDE_IN_1X1": True,  # True for the MSRA weights, False for torchvision's
                "RES5_DILATION": 1, "RES2_OUT_CHANNELS": 256, "STEM_OUT_CHANNELS": 64,
                "DEFORM_ON_PER_STAGE": [False, False, False, False],  # res2 to res5
                "DEFORM_MODULATED": False, "DEFORM_NUM_GROUPS": 1,
            },
        },
        "INPUT": {
            "MIN_SIZE_TRAIN": (800,),  # shorter side in pixels
            "MIN_SIZE_TRAIN_SAMPLING": "choice",  # choice: one of the values; range: between the two values
            "MAX_SIZE_TRAIN": 1333,
            "MIN_SIZE_TEST": 800,  # 0: no resizing
            "MAX_SIZE_TEST": 1333,
            "RANDOM_FLIP": "horizontal",  # horizontal, vertical or none
            "CROP": {
                "ENABLED": False,
                "TYPE": "relative_range",  # relative_range, relative, absolute or absolute_range
                "SIZE": [0.9, 0.9],
            },
            "FORMAT": "BGR",
            "MASK_FORMAT": "polygon",  # polygon or bitmask
        },
        "DATASETS": {
            "TRAIN": (), "PROPOSAL_FILES_TRAIN": (), "PRECOMPUTED_PROPOSAL_TOPK_TRAIN": 2000, "TEST": (),
            "PROPOSAL_FILES_TEST": (), "PRECOMPUTED_PROPOSAL_TOPK_TEST": 1000,
        },
        "DATALOADER": {
            "NUM_WORKERS": 4, "ASPECT_RATIO_GROUPING": True,
            "SAMPLER_TRAIN": "TrainingSampler",  # or RepeatFactorTrainingSampler, RandomSubsetTrainingSampler
            "REPEAT_THRESHOLD": 0.0,  # classes in a smaller share of the images are repeated
            "REPEAT_SQRT": True, "FILTER_EMPTY_ANNOTATIONS": True,
        },
        "SOLVER": {
            "LR_SCHEDULER_NAME": "WarmupMultiStepLR",  # or WarmupCosineLR, WarmupStepWithFixedGammaLR
            "MAX_ITER": 40000, "BASE_LR": 0.001,
            "BASE_LR_END": 0.0,  # end of the cosine schedule
            "MOMENTUM": 0.9, "NESTEROV": False, "WEIGHT_DECAY": 0.0001, "WEIGHT_DECAY_NORM": 0.0, "GAMMA": 0.1,
            "STEPS": (30000,),
            "NUM_DECAYS": 3,  # WarmupStepWithFixedGammaLR only
            "WARMUP_FACTOR": 0.001, "WARMUP_ITERS": 1000, "WARMUP_METHOD": "linear", "RESCALE_INTERVAL": False,
            "CHECKPOINT_PERIOD": 5000,
            "IMS_PER_BATCH": 16,  # over all processes
            "REFERENCE_WORLD_SIZE": 0,  # see DefaultTrainer.auto_scale_workers; 0: off
            "BIAS_LR_FACTOR": 1.0,
            "WEIGHT_DECAY_BIAS": None,  # None: as the weights
            "CLIP_GRADIENTS": {
                "ENABLED": False,
                "CLIP_TYPE": "value",  # value, or norm: of each parameter
                "CLIP_VALUE": 1.0, "NORM_TYPE": 2.0,
            },
            "AMP": {
                "ENABLED": False,
            },
        },
        "TEST": {
            "EXPECTED_RESULTS": [],  # [task, metric, value, tolerance] entries that verify_results checks
            "EVAL_PERIOD": 0,  # iterations; 0: only after training
            "KEYPOINT_OKS_SIGMAS": [], "DETECTIONS_PER_IMAGE": 100,
            "AUG": {
                "ENABLED": False, "MIN_SIZES": (400, 500, 600, 700, 800, 900, 1000, 1100, 1200), "MAX_SIZE": 4000,
                "FLIP": True,
            },
            "PRECISE_BN": {
                "ENABLED": False, "NUM_ITER": 200,
            },
        },
        "OUTPUT_DIR": "./output",
        "SEED": -1,  # negative: a random one
        "CUDNN_BENCHMARK": False,
        "FLOAT32_PRECISION": "",  # highest, high or medium; empty: torch's own default
        "VIS_PERIOD": 0,  # iterations between pictures of the training batch in the event storage; 0: none
        "GLOBAL": {
            "HACK": 1.0,  # for quick experiments of a user's own
        },
    }
)
# fmt: on
